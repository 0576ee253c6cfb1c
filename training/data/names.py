"""From titles and labels to names that a caption can use, and to keys that several drawing styles share."""

import re
import unicodedata

# Nouns that take "some" though singular.
_MASS_NOUNS = frozenset(
    "bacon bamboo beer blood bread broccoli butter carbonara cheese chocolate coffee confetti coral corn dough eggnog "
    "falafel fire food fruit garlic ginger grass guacamole hay honey ice knitting lasagna lemonade lightning meat milk "
    "money paper pasta perfume polish popcorn powder rice salt sand seaweed sky smoke soap spaghetti sunscreen sushi "
    "syrup tea toast tofu velvet water wine wood wool".split()
)
_NO_ARTICLE = frozenset("bubbles earth fireworks fuji jupiter mars venus".split())
# Things with two halves have no singular; other things come two by two.
_TWO_HALVES = frozenset(
    "binoculars briefs chopsticks dungarees glasses goggles handcuffs headphones jeans leggings maracas overalls "
    "pajamas pants pincers pliers pyjamas scissors shears shorts sunglasses tights tongs trousers tweezers".split()
)
_PAIRS = _TWO_HALVES | frozenset("boots gloves mittens sandals shoes skates skis slippers socks".split())
_SINGULAR_IN_S = re.compile(r"(ss|us|is|[eo]ps)$")
_SINGULARS = {word: word for word in "atlas canvas christmas cosmos dice gas lens news pancreas rhinoceros".split()} | {
    "axes": "axe", "brownies": "brownie", "cacti": "cactus", "calves": "calf", "children": "child",
    "cookies": "cookie", "elves": "elf", "feet": "foot", "fungi": "fungus", "geese": "goose", "halves": "half",
    "heroes": "hero", "hooves": "hoof", "kiwis": "kiwi", "knives": "knife", "leaves": "leaf", "loaves": "loaf",
    "mangoes": "mango", "men": "man", "menus": "menu", "mice": "mouse", "movies": "movie", "oxen": "ox",
    "people": "person", "pies": "pie", "potatoes": "potato", "scarves": "scarf", "shelves": "shelf", "skis": "ski",
    "taxis": "taxi", "teeth": "tooth", "ties": "tie", "tomatoes": "tomato", "torpedoes": "torpedo", "wolves": "wolf",
    "women": "woman", "zombies": "zombie",
}  # fmt: skip
_AFTER_HEAD = re.compile(
    " (?:of|with|in|on|from|behind|and|over|at|for|without|under|to|making|pointing|covering|raising|lifting|getting|"
    "feeding|rowing|climbing|bouncing|riding|doing|taking|driving|carrying|hitting|opening|writing|holding|wearing) "
)


def clean_name(title: str) -> str:
    """A lower-case phrase of words, made of ``a-z``, digits, apostrophes and hyphens inside words.

    Brackets and what they hold, file endings, running numbers, underscores and a leading article are dropped; accents
    are folded.

    Args:
        title: a title, label or file name.

    Returns:
        The phrase, or "" when nothing is left that names something.
    """
    text = unicodedata.normalize("NFKD", title.replace("’", "'"))
    text = "".join(mark for mark in text if not unicodedata.combining(mark)).lower()
    text = re.sub(r"\([^)]*\)|\.(svg|png|jpe?g|webp)\b", " ", text)
    text = re.sub(r"[^a-z0-9'-]+", " ", text)
    words = [word.strip("'-") for word in re.sub(r"(?<=[a-z])\d+\b", " ", text).split()]
    words = [word for word in words if word]
    while words and (words[0] in {"a", "an", "the"} or words[0].isdigit()):
        words.pop(0)
    while words and words[-1].isdigit():
        words.pop()
    return " ".join(words) if any(re.search("[a-z]{2}", word) for word in words) else ""


def singular(phrase: str) -> str:
    """The phrase with its last word in the singular; words that have only a plural stay."""
    *before, last = phrase.split(" ")
    if last in _SINGULARS:
        last = _SINGULARS[last]
    elif last in _TWO_HALVES or _SINGULAR_IN_S.search(last) or not last.endswith("s") or len(last) < 4:
        pass
    elif last.endswith("ies"):
        last = last[:-3] + "y"
    elif re.search(r"(ch|sh|x|z|ss)es$", last):
        last = last[:-2]
    else:
        last = last[:-1]
    return " ".join([*before, last])


def article(name: str) -> str:
    """The words that go before ``name`` in a caption: "a", "an", "a pair of", "some", or "" where none is wanted."""
    # The noun that the phrase is about stands before " of ", " with ", " holding " and the like.
    phrase = _AFTER_HEAD.split(name)[0]
    head = phrase.split(" ")[-1]
    if head in _NO_ARTICLE or phrase.startswith("two "):
        return ""
    if head in _PAIRS and phrase == name:
        return "a pair of"
    if head in _MASS_NOUNS or head in _PAIRS or singular(head) != head:
        return "some"
    return indefinite(name)


def indefinite(name: str) -> str:
    """Either "a" or "an", by the sound of the first word."""
    first = name.split(" ")[0]
    if re.match(r"(uni([^nm]|$)|use|usb|ufo|uku|ute|eu|one\b|once|u-)", first):
        return "a"
    if re.match(r"(hour|honest|heir|x-|lcd|sos|suv)", first):
        return "an"
    return "an" if first[:1] in "aeiou" or first.startswith("8") else "a"


def with_article(article: str, name: str) -> str:
    """``"a"`` and ``"lion"`` -> ``"a lion"``; names without an article stay bare."""
    return f"{article} {name}".strip()


def sentence(answer: str) -> str:
    """``"a lion"`` -> ``"A lion."``."""
    return f"{answer[0].upper()}{answer[1:]}."
