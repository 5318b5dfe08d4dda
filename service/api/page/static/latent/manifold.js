// The manifold of a two-dimensional latent space: what the network draws, on a grid over the map.

import { decode, rounded } from "./latent_space.js";
import { imageData } from "../shared/pictures.js";
import { useEffect, useNewest, useState } from "../shared/ui.js";

const COLUMNS = 24;
const MAX_PIXELS = 8e6; // of all images of a grid, so that large images are fewer

/** The grid over `frame`: columns, rows, the side of a cell, and the point at each cell's centre. */
export function gridOf(frame, [, height, width]) {
  const columns = Math.min(COLUMNS, Math.max(4, Math.floor(Math.sqrt(MAX_PIXELS / width / height))));
  const cell = [frame.width / columns, (frame.width / columns) * (height / width)];
  const rows = Math.ceil(frame.height / cell[1]);
  const points = Array.from({ length: columns * rows }, (_, i) =>
    rounded(frame.toPlace([
      ((i % columns) + 0.5) * cell[0],
      (Math.floor(i / columns) + 0.5) * cell[1],
    ])));
  return { columns, rows, cell, points };
}

/** A canvas with the images of a grid, once they are there, while `isShown`. One request. */
export function useManifold(grid, isShown, attempt) {
  const [sheet, setSheet] = useState(null);
  const load = useNewest(
    attempt(async (wanted) => setSheet(sheetOf(wanted, await decode(wanted.points)))));
  useEffect(() => {
    if (isShown && grid) load(grid);
  }, [isShown, grid]);
  return isShown ? sheet : null;
}

function sheetOf(grid, found) {
  const [, height, width] = found[0].shape;
  const canvas = new OffscreenCanvas(grid.columns * width, grid.rows * height);
  const context = canvas.getContext("2d");
  found.forEach((image, i) => {
    const row = Math.floor(i / grid.columns);
    context.putImageData(imageData(image), (i % grid.columns) * width, row * height);
  });
  return { canvas, grid };
}

/** Draw a sheet over the box that its grid was made for. */
export function drawManifold(context, { canvas, grid }) {
  context.imageSmoothingEnabled = canvas.width > grid.columns * 96;
  const { columns, rows, cell } = grid;
  context.drawImage(canvas, 0, 0, columns * cell[0], rows * cell[1]);
}
