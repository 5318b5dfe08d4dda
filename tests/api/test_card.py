"""GET /model/card and /model/plots/…: files of the bundle in memory, and no other file."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from httpx import AsyncClient

from model.bundle.bundle import find_bundle, load_bundle, pretrained_names
from model.bundle.card_files import stored_version
from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import client_of, problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return shutil.copytree(find_bundle("mnist"), tmp_path / "mine")


@pytest.fixture
def own_app(directory: Path) -> App:
    return create_app(Settings(bundle=str(directory), threads=1))


@pytest.fixture
async def own(own_app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(own_app) as client:
        yield client


async def test_the_card_and_all_its_pictures(client: AsyncClient) -> None:
    answer = await client.get("/model/card")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.content == (find_bundle("mnist") / "README.md").read_bytes()
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", answer.text)
    assert len(links) >= 5
    for link in links:
        picture = await client.get(f"/model/{link}")
        assert picture.headers["content-type"] == "image/png"
        assert picture.content == (find_bundle("mnist") / link).read_bytes()
    for found in (answer, picture):
        assert found.headers["x-content-type-options"] == "nosniff"


async def test_they_are_read_when_they_are_asked_for(own: AsyncClient, directory: Path) -> None:
    (directory / "README.md").write_text("Größe")
    assert (await own.get("/model/card")).text == "Größe"
    (directory / "README.md").unlink()
    problem(await own.get("/model/card"), 404, "no card", "README.md")
    shutil.rmtree(directory / "plots")
    problem(await own.get("/model/plots/samples.png"), 404, "'samples.png'")


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.png", "samples", "samples.PNG", "Samples.png", ".png", "samples.png%00"),
        *("samples.png%0A", "..%2FREADME.md", "..%2Fother.png", "%2e%2e", "a b.png", "x.jpg"),
        "%2Fetc%2Fpasswd",
    ],
)
async def test_other_names_are_not_there(own: AsyncClient, directory: Path, name: str) -> None:
    for place in (directory, directory / "plots"):
        for file in ("other.png", "x.jpg", ".png", "Samples.png", "a b.png"):
            if place != directory / "plots" or file != "other.png":
                (place / file).write_bytes(b"secret")
    answer = await own.get(f"/model/plots/{name}")
    problem(answer, 404)
    assert b"secret" not in answer.content


async def test_no_link_leads_out_of_the_directory(
    own: AsyncClient, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    plots = directory / "plots"
    (plots / "out.png").symlink_to(tmp_path / "secret.png")
    (plots / "up.png").symlink_to("../../secret.png")
    (plots / "circle.png").symlink_to("circle.png")
    (plots / "folder.png").mkdir()
    for name in ("out", "up", "circle", "folder"):
        problem(await own.get(f"/model/plots/{name}.png"), 404)
    (directory / "README.md").unlink()
    (directory / "README.md").symlink_to(tmp_path / "secret.png")
    problem(await own.get("/model/card"), 404)
    shutil.move(plots, tmp_path / "elsewhere")
    plots.symlink_to(tmp_path / "elsewhere")
    problem(await own.get("/model/plots/samples.png"), 404)


async def test_links_within_the_directory_are_followed(directory: Path, tmp_path: Path) -> None:
    """As Kubernetes mounts files; and the directory itself may be a link to the newest version."""
    shutil.move(directory / "README.md", directory / "card.md")
    (directory / "README.md").symlink_to("card.md")
    (tmp_path / "newest").symlink_to(directory)
    async with client_of(
        create_app(Settings(bundle=str(tmp_path / "newest"), threads=1))
    ) as client:
        assert (await client.get("/model/card")).status_code == 200
        assert (await client.get("/model/plots/samples.png")).status_code == 200


async def test_another_bundle_on_disk_is_a_conflict(own: AsyncClient, directory: Path) -> None:
    old = load_bundle(directory).version
    shutil.copytree(find_bundle("fashion-mnist"), directory, dirs_exist_ok=True)
    new = load_bundle(directory).version
    for path in ("/model/card", "/model/plots/samples.png"):
        problem(await own.get(path), 409, new, old, "/model/reload")
    await own.post("/model/reload")
    assert (await own.get("/model/card")).content == (directory / "README.md").read_bytes()
    (directory / "config.json").write_text("[]")
    problem(await own.get("/model/card"), 409, "config.json")
    shutil.rmtree(directory)
    found = problem(await own.get("/model/card"), 409, "no longer on disk")
    assert str(directory.parent) not in found["detail"]


@pytest.mark.parametrize("name", pretrained_names())
def test_the_version_on_disk_is_that_of_the_bundle(name: str) -> None:
    assert stored_version(find_bundle(name)) == load_bundle(find_bundle(name)).version
