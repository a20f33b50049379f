from __future__ import annotations

import pytest

from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.told import Told, told


def test_a_sentence_keeps_what_it_was_made_of() -> None:
    sentence = told("Pool {pool} has {free} GPUs left.", pool="nhn", free=16)
    assert sentence == "Pool nhn has 16 GPUs left."
    error = Refused(sentence)
    assert str(error) == sentence
    assert isinstance(error.message, Told)
    assert (error.message.template, error.message.values) == (
        "Pool {pool} has {free} GPUs left.",
        {"pool": "nhn", "free": 16},
    )


def test_a_value_that_is_missing_is_noticed_where_the_sentence_is_made() -> None:
    with pytest.raises(KeyError, match="free"):
        told("{free} GPUs left.")
