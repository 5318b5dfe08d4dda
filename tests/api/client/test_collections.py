"""Collections larger than a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.client import AnomalyScores, AsyncClient, Client, ImageScore, ProblemError
from tests.api.client.helpers import Images, Use, near
from tests.processes import Server


def counted(images: Images, taken: list[int]) -> Iterator[Images]:
    for i, image in enumerate(images):
        taken.append(i)
        yield image


N, BATCH = 1_000, 96


def test_a_large_collection_is_taken_a_batch_at_a_time(server: Server, digits: Images) -> None:
    images = digits[:N]
    taken: list[int] = []
    with Client(server.url) as client:
        expected = client.anomaly_score(images)
        scores = client.iter_scores(counted(images, taken), BATCH)
        assert not taken, "nothing before it is asked for"
        for i, score in enumerate(scores):
            assert len(taken) - i <= BATCH, "one batch ahead at most"
            check_score(score, expected, i)
    assert i + 1 == len(taken) == N


def test_a_large_collection_asynchronously(server: Server, digits: Images) -> None:
    images = digits[:N]
    taken: list[int] = []

    async def stream() -> int:
        async with AsyncClient(server.url) as client:
            expected = await client.anomaly_score(images)
            i = 0
            async for score in client.iter_scores(counted(images, taken), BATCH):
                assert len(taken) - i <= BATCH
                check_score(score, expected, i)
                i += 1
            return i

    assert asyncio.run(stream()) == len(taken) == N


def check_score(score: ImageScore, expected: AnomalyScores, i: int) -> None:
    assert isinstance(score, ImageScore)
    assert score.score == pytest.approx(expected.score[i], rel=1e-5)
    assert score.mse == pytest.approx(expected.mse[i], rel=1e-5)
    assert score.kl == pytest.approx(expected.kl[i], rel=1e-5)
    assert expected.p_value is not None
    assert expected.is_anomaly is not None
    assert score.p_value == pytest.approx(expected.p_value[i], abs=2e-4)
    assert score.is_anomaly == expected.is_anomaly[i]


def test_the_first_scores_come_before_the_last_images(server: Server, digits: Images) -> None:
    def endless() -> Iterator[Images]:
        while True:
            yield digits[0]

    with Client(server.url) as client:
        scores = client.iter_scores(endless(), 10)
        assert len({next(scores) for _ in range(25)}) == 1


def test_collections_of_any_length_and_kind(
    server: Server, use: Use, digits: Images, paths: list[Path]
) -> None:
    expected = use(server.url, "anomaly_score", digits[:7]).score
    for batch in (1, 6, 7, 8, 256):
        for images in (digits[:7], list(digits[:7, 0]), iter(digits[:7])):
            found = use(server.url, "iter_scores", images, batch)
            assert np.array([score.score for score in found]) == near(expected)
    assert use(server.url, "iter_scores", []) == []
    found = use(server.url, "iter_scores", paths, 3)
    assert np.array([score.score for score in found]) == near(expected[:4])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(server: Server, use: Use, four: Images, batch: int) -> None:
    """Not taken for the end of the collection."""
    with pytest.raises(ValueError, match=str(batch)):
        use(server.url, "iter_scores", four, batch)


def test_a_progress_bar(
    server: Server, use: Use, digits: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    found = use(server.url, "iter_scores", digits[:30], 10, progress=True)
    assert len(found) == 30
    shown = "".join(capsys.readouterr())
    assert "scored" in shown
    assert "100%" in shown
    assert len(use(server.url, "iter_scores", iter(digits[:30]), 10, progress=True)) == 30
    use(server.url, "iter_scores", digits[:3])
    assert "scored" not in "".join(capsys.readouterr()).partition("100%")[2]


def test_a_collection_that_fails_midway(server: Server, use: Use, digits: Images) -> None:
    """What was scored has been given out; the error is the service's own."""
    spoilt = [*digits[:20], np.zeros((3, 3), np.uint8)]
    with pytest.raises((ProblemError, ValueError)):
        use(server.url, "iter_scores", spoilt, 20)
    with Client(server.url) as client:
        scores = client.iter_scores(spoilt, 20)
        assert len([next(scores) for _ in range(20)]) == 20
        with pytest.raises(ProblemError, match="422"):
            next(scores)
