"""From titles and labels to names that a caption can use, and to keys that several drawing styles share."""

import re
import unicodedata

# Words that tell how something is drawn, not what it is.
_DRAWING_WORDS = frozenset("clipart clip art drawing cartoon icon symbol sketch silhouette contour outline svg bw image picture".split())
# Plural in form, or without number: no article, or "some".
_NO_ARTICLE = frozenset("fireworks bubbles dice earth fuji".split())
_MASS_NOUNS = frozenset(
    "bacon blood bread broccoli butter cheese chewing-gum corn falafel fire food fruit garlic ginger honey lightning "
    "milk popcorn rice salt spaghetti water wood beer wine coffee tea money sushi sheet-music toast hay grass sand smoke "
    "confetti knitting lasagna pasta lemonade chocolate sky soap tofu dough coral bamboo seaweed polish ice meat".split()
)
_PLURAL_ONLY = frozenset(
    "glasses sunglasses goggles jeans shorts trousers pants scissors binoculars tweezers pliers headphones chopsticks "
    "tongs overalls leggings tights briefs pyjamas pajamas maracas pincers shears dungarees handcuffs".split()
)
_PAIRS = frozenset(
    "glasses sunglasses goggles jeans shorts trousers pants scissors binoculars tweezers pliers headphones chopsticks tongs "
    "tights briefs pyjamas pajamas maracas shears handcuffs gloves socks boots shoes slippers mittens sandals skis skates".split()
)
_KEEP_FINAL_S = re.compile(r"(ss|us|is|ys|as|os|eps)$")
_IRREGULAR = {
    "leaves": "leaf", "knives": "knife", "wolves": "wolf", "loaves": "loaf", "shelves": "shelf", "halves": "half",
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "oxen": "ox", "dice": "dice", "cacti": "cactus", "fungi": "fungus",
    "scarves": "scarf", "calves": "calf", "hooves": "hoof", "elves": "elf", "tomatoes": "tomato", "potatoes": "potato",
    "mangoes": "mango", "heroes": "hero", "torpedoes": "torpedo", "bus": "bus", "gas": "gas", "lens": "lens",
    "cookies": "cookie", "pies": "pie", "ties": "tie", "brownies": "brownie", "zombies": "zombie", "shoes": "shoe",
    "axes": "axe", "movies": "movie", "news": "news", "olives": "olive", "gloves": "glove", "doves": "dove",
    "pajamas": "pajamas", "iris": "iris", "canvas": "canvas", "pancreas": "pancreas", "christmas": "christmas",
    "skis": "ski", "tacos": "taco", "avocados": "avocado", "flamingos": "flamingo", "pianos": "piano", "radios": "radio",
    "photos": "photo", "videos": "video", "kangaroos": "kangaroo", "pandas": "panda", "koalas": "koala", "zebras": "zebra",
    "bananas": "banana", "cameras": "camera", "pizzas": "pizza", "umbrellas": "umbrella", "toys": "toy", "keys": "key",
    "monkeys": "monkey", "donkeys": "donkey", "turkeys": "turkey", "trays": "tray", "boys": "boy", "sofas": "sofa",
}  # fmt: skip


def clean_name(title: str) -> str:
    """A lower-case phrase of words, made of ``a-z``, digits, apostrophes and hyphens inside words.

    Brackets and what they hold, file endings, running numbers, underscores, words about the drawing and a leading article
    are dropped; accents are folded.

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
    words = [word for word in words if word and word not in _DRAWING_WORDS]
    while words and (words[0] in {"a", "an", "the"} or words[0].isdigit()):
        words.pop(0)
    while words and words[-1].isdigit():
        words.pop()
    return " ".join(words) if any(re.search("[a-z]{2}", word) for word in words) else ""


def singular(phrase: str) -> str:
    """The phrase with its last word in the singular; words that have only a plural stay."""
    *before, last = phrase.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last in _PLURAL_ONLY or _KEEP_FINAL_S.search(last) or not last.endswith("s") or len(last) < 4:
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
    head = _head(name)
    if head in _NO_ARTICLE:
        return ""
    if head in _PAIRS:
        return "a pair of" if head == name.split(" ")[-1] and " of " not in name else "a"
    if head in _MASS_NOUNS:
        return "some"
    if singular(head) != head:
        return "some"
    return indefinite(name)


def indefinite(name: str) -> str:
    """ "a" or "an", by the sound of the first word."""
    first = name.split(" ")[0]
    if re.match(r"(uni([^nm]|$)|use|usb|ufo|uku|ute|eu|one\b|once|u-)", first):
        return "a"
    if re.match(r"(hour|honest|heir|x-|mp3|lcd|sos|suv)", first):
        return "an"
    return "an" if first[:1] in "aeiou" or first.startswith("8") else "a"


def _head(name: str) -> str:
    """The noun that the phrase is about: the last word before " of ", " with ", " in " and the like."""
    return re.split(r" (?:\w+ing|of|with|in|on|from|behind|and|over|at|for|without|under|to) ", name)[0].split(" ")[-1]
