"""Draws overview.png of a running service's answers: `python docs/images/draw.py`.

Every image in it is decoded from the prior by the `mnist` bundle; one is then scratched.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TARGET: Final = Path(__file__).with_name("overview.png")

SHEET: Final = {"n": 64, "seed": 7}

CHOSEN: Final = 25
"""Image of the sheet that is scored: an ordinary one."""

SCALE: Final = 7
"""Of the images that are scored; the sheet is as high as both of their rows."""

GAP, MARGIN, CAPTION, LARGE = 12, 20, 20, 15

COLUMNS: Final = ("image", "reconstruction", "error map")


INK, GREY, RED, GREEN = "#1f2328", "#59636e", "#cf222e", "#1a7f37"

Pixels = NDArray[np.uint8]


def main(url: str) -> None:
    """Ask the service at `url` and write the picture."""
    with httpx.Client(base_url=url, timeout=30) as service:
        sheet = picture(service.get("/sample", params=SHEET))
        digits = array(
            service.get(
                "/sample",
                params=SHEET | {"dtype": "uint8"},
                headers={"Accept": "application/x-npy"},
            )
        )
        clean: Pixels = digits[CHOSEN]
        rows = [scored_row(service, image) for image in (clean, scratched(clean))]
    compose(sheet, rows).save(TARGET, optimize=True)


def scratched(image: Pixels) -> Pixels:
    """The image with a bright line across it."""
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).line((3, 4, 24, 25), fill=255, width=2)
    return np.asarray(drawn)


def scored_row(service: httpx.Client, image: Pixels) -> tuple[list[Image.Image], dict[str, Any]]:
    """The image, its reconstruction and its error map, all as PNG, and its scores."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    body, png = file.getvalue(), {"Accept": "image/png"}
    enlarged: dict[str, str] = {"scale": str(SCALE)}
    pictures = [
        Image.fromarray(image).resize((28 * SCALE, 28 * SCALE), Image.Resampling.NEAREST),
        picture(service.post("/reconstruct", content=body, params=enlarged, headers=png)),
        picture(
            service.post(
                "/anomaly-score", content=body, params=enlarged | {"map": "true"}, headers=png
            )
        ),
    ]
    scores: dict[str, Any] = service.post("/anomaly-score", content=body).raise_for_status().json()
    return [one.convert("RGB") for one in pictures], scores


def compose(
    sheet: Image.Image, rows: list[tuple[list[Image.Image], dict[str, Any]]]
) -> Image.Image:
    """The sheet on the left, the rows on the right, with captions."""
    side = 28 * SCALE
    height = CAPTION + len(rows) * (side + CAPTION + GAP)
    sheet_side = height - CAPTION - GAP - CAPTION
    size = (MARGIN + sheet_side + 2 * MARGIN + 3 * side + 2 * GAP + MARGIN, MARGIN + height)
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    font, bold = ImageFont.load_default(LARGE), ImageFont.load_default(LARGE + 1)
    draw.text((MARGIN, MARGIN // 2), "GET /sample?n=64&seed=7", GREY, font)
    whole.paste(
        sheet.convert("RGB").resize((sheet_side, sheet_side), Image.Resampling.BICUBIC),
        (MARGIN, MARGIN // 2 + CAPTION + 2),
    )
    left = MARGIN + sheet_side + 2 * MARGIN
    for column, name in enumerate(COLUMNS):
        draw.text((left + column * (side + GAP), MARGIN // 2), name, GREY, font)
    for number, (pictures, scores) in enumerate(rows):
        top = MARGIN // 2 + CAPTION + 2 + number * (side + CAPTION + GAP)
        for column, one in enumerate(pictures):
            whole.paste(one, (left + column * (side + GAP), top))
        strange = scores["is_anomaly"][0]
        caption = f'"p_value": {scores["p_value"][0]:.4f},  "is_anomaly": '
        draw.text((left, top + side + 3), caption, INK, font)
        draw.text(
            (left + draw.textlength(caption, font), top + side + 2),
            str(strange).lower(),
            RED if strange else GREEN,
            bold,
        )
    return whole


def picture(answer: httpx.Response) -> Image.Image:
    """The PNG in an answer."""
    return Image.open(BytesIO(answer.raise_for_status().content))


def array(answer: httpx.Response) -> Pixels:
    """The .npy file in an answer."""
    found: Pixels = np.load(BytesIO(answer.raise_for_status().content))
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000")
