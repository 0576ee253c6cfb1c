import pytest

from assistant.errors import InputError
from assistant.options import Options, make_options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number, got 1.5"),
        ({"temperature": -0.1}, "temperature must be 0 .* got -0.1"),
        ({"temperature": float("nan")}, "temperature .* nan"),
        ({"temperature": float("inf")}, "temperature .* inf"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.01}, "top_p .* got 1.01"),
        ({"top_k": -1}, "top_k must be 0 .* got -1"),
        ({"top_k": 2.0}, "top_k must be a whole number, got 2.0"),
        ({"min_p": 1.1}, "min_p must be from 0 to 1, got 1.1"),
        ({"min_p": float("nan")}, "min_p .* nan"),
        ({"repetition_penalty": 0}, "repetition_penalty must be from 0.01 to 100, got 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty .* inf"),
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"beams": 2, "temperature": 0.5}, "2 beams .* do not sample"),
        ({"stop": ""}, "stop must be strings .* got ''"),
        ({"stop": "end"}, "stop must be strings .* got 'end'"),
        ({"stop": ("end", "")}, "stop must be strings"),
        ({"stop": (1,)}, "stop must be strings"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be .* got 4294967296"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"time_limit": 0}, "time_limit must be above 0 seconds, got 0"),
        ({"time_limit": float("nan")}, "time_limit .* nan"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_options_at_the_ends_of_their_ranges_are_taken():
    Options()
    Options(max_new_tokens=1, temperature=0, top_p=1, top_k=0, min_p=0, seed=0)
    Options(temperature=1e-9, top_p=1e-9, min_p=1, seed=2**32 - 1, time_limit=1e-9, stop=("\n",))
    Options(beams=4, repetition_penalty=2)


def test_options_are_made_by_name_and_a_near_name_is_told():
    assert make_options({"top_k": 3, "stop": ["a", "b"]}) == Options(top_k=3, stop=("a", "b"))
    with pytest.raises(InputError, match="'max_tokens' is not known; did you mean max_new_tokens"):
        make_options({"max_tokens": 3})
    with pytest.raises(InputError, match="'zzz' is not known; known are max_new_tokens, temperature"):
        make_options({"zzz": 3})
    with pytest.raises(InputError, match=r"stop must be strings .* got 'end'"):
        make_options({"stop": "end"})
