"""All inputs that the fuzzers keep pass, including each one that once found a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import campaign


@pytest.fixture(scope="session")
def binaries() -> Path:
    if why := campaign.lacking(campaign.C_HARNESSES[0]):
        pytest.skip(why)
    return campaign.build("sanitized", campaign.SANITIZED)


@pytest.mark.parametrize("name", campaign.C_HARNESSES)
@pytest.mark.timeout(300)
def test_a_corpus_passes(name: str, binaries: Path) -> None:
    replayed = campaign.replay(name, binaries)
    assert campaign.seeds(name), "a harness without seeds starts from nothing"
    assert replayed.code == 0, replayed.output[-8000:]


@pytest.mark.parametrize("name", campaign.PYTHON_HARNESSES)
def test_a_corpus_of_texts_passes(name: str) -> None:
    if why := campaign.lacking(name):
        pytest.skip(why)
    replayed = campaign.replay(name, None)
    assert campaign.seeds(name), "a harness without seeds starts from nothing"
    assert replayed.code == 0, replayed.output[-8000:]


def test_the_corpora_stay_small() -> None:
    size = sum(path.stat().st_size for path in campaign.SEEDS.rglob("*") if path.is_file())
    assert size < 300_000, f"{size} bytes: scripts/fuzz minimise, and keep fewer"
