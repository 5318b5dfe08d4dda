// What is drawn on the map of the latent space. A `pen` is `{context, frame, colour}`.

import { rounded } from "./latent_space.js";
import { imageData } from "../shared/pictures.js";

const COLOURS = 10; // --class-0 to --class-9 in page.css
const GLYPHS = "●■▲◆▼";

export const colourOf = (label) => (label === null ? "--quiet" : `--class-${label % COLOURS}`);
export const glyphOf = (label) => GLYPHS[(label + Math.floor(label / COLOURS)) % GLYPHS.length];

/** The colours of page.css, each of which is `light-dark(#…, #…)`, by name, as canvases need them. */
export function coloursOfPage(isDark) {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(name).match(/#\w+/g)[isDark ? 1 : 0];
}

/** Between places of the latent space and pixels of a box, with one scale for both axes. */
export function frameOf(places, width, height) {
  const [xs, ys] = [0, 1].map((axis) => {
    const all = places.map((place) => place[axis]);
    const [low, high] = [Math.min(-3, ...all), Math.max(3, ...all)];
    return { middle: (low + high) / 2, length: 1.1 * (high - low) };
  });
  const scale = Math.min(width / xs.length, height / ys.length);
  return {
    width,
    height,
    toPixel: ([x, y]) =>
      [width / 2 + (x - xs.middle) * scale, height / 2 - (y - ys.middle) * scale],
    toPlace: ([x, y]) =>
      [xs.middle + (x - width / 2) / scale, ys.middle - (y - height / 2) / scale],
  };
}

/** A pen for a canvas, which it clears. It draws in CSS pixels. */
export function penFor(canvas, frame, colour) {
  canvas.width = Math.round(frame.width * devicePixelRatio);
  canvas.height = Math.round(frame.height * devicePixelRatio);
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  return { context, frame, colour };
}

/** Points `{place, label}`. If `chosen` is a label, those of others are faint. */
export function drawPoints({ context, frame, colour }, points, chosen) {
  context.font = `${frame.width < 500 ? 6 : 8}px sans-serif`;
  for (const { place, label } of points) {
    context.globalAlpha = chosen === null || chosen === label ? 0.8 : 0.08;
    context.fillStyle = colour(colourOf(label));
    context.fillText(glyphOf(label ?? 0), ...frame.toPixel(place));
  }
  context.globalAlpha = 1;
}

/** The names of groups at their medians, or below where they would cover one another. */
export function drawNames({ context, frame, colour }, groups, chosen) {
  const height = frame.width < 500 ? 12 : 14;
  context.font = `600 ${height}px ${getComputedStyle(document.body).fontFamily}`;
  context.strokeStyle = colour("--card");
  context.fillStyle = colour("--ink");
  context.lineWidth = 4;
  const names = groups
    .filter(({ name, label }) => name !== null && (chosen === null || chosen === label))
    .map(({ name, median }) => [name, ...frame.toPixel(median), context.measureText(name).width + 8])
    .sort((a, b) => a[2] - b[2]);
  names.forEach((own, i) => {
    const covers = ([, x, y, width]) =>
      Math.abs(x - own[1]) < (width + own[3]) / 2 && Math.abs(y - own[2]) < 1.25 * height;
    while (names.slice(0, i).some(covers)) own[2] += 2;
    context.strokeText(...own.slice(0, 3));
    context.fillText(...own.slice(0, 3));
  });
}

/** The pixel of a place, at the border if the place is beyond it. */
export const pixelWithin = ({ width, height, toPixel }, place, margin = 8) =>
  toPixel(place).map((at, axis) => Math.max(margin, Math.min([width, height][axis] - margin, at)));

/** Stroke what was traced, over a wider line that sets it off from points and images. */
function strokeTwice({ context, colour }, name, width) {
  for (const [one, lineWidth] of [["--card", width + 3], [name, width]]) {
    context.strokeStyle = colour(one);
    context.lineWidth = lineWidth;
    context.stroke();
  }
}

export function drawPath(pen, places) {
  pen.context.beginPath();
  places.forEach((place) => pen.context.lineTo(...pixelWithin(pen.frame, place)));
  strokeTwice(pen, "--ink", 1.5);
}

/** A ring at a place. With `isHere` that of the sliders' point: a disc with a dot in it. */
export function drawRing(pen, place, isHere) {
  const { context, frame, colour } = pen;
  const disc = (radius, name) => {
    context.beginPath();
    context.arc(...pixelWithin(frame, place), radius, 0, 2 * Math.PI);
    context.fillStyle = colour(name);
    if (isHere) context.fill();
  };
  disc(9, "--card");
  strokeTwice(pen, isHere ? "--accent" : "--ink", 2.5);
  disc(4, "--accent");
}

const COLUMNS = 24; // of images, over the map
const MAX_PIXELS = 8e6; // of all images of a grid, so that large images are fewer

/** The grid over `frame`: columns, rows, the sides of a cell, and the point at each cell's centre. */
export function gridOf(frame, [, height, width]) {
  const columns = Math.min(COLUMNS, Math.max(4, Math.floor(Math.sqrt(MAX_PIXELS / width / height))));
  const side = frame.width / columns;
  const cell = [side, side * (height / width)];
  const rows = Math.ceil(frame.height / cell[1]);
  const points = Array.from({ length: columns * rows }, (_, i) =>
    rounded(frame.toPlace([
      ((i % columns) + 0.5) * cell[0],
      (Math.floor(i / columns) + 0.5) * cell[1],
    ])));
  return { columns, rows, cell, points };
}

/** The images of a grid, on a canvas. */
export function sheetOf(grid, images) {
  const [, height, width] = images[0].shape;
  const canvas = new OffscreenCanvas(grid.columns * width, grid.rows * height);
  const context = canvas.getContext("2d");
  images.forEach((image, i) => {
    const row = Math.floor(i / grid.columns);
    context.putImageData(imageData(image), (i % grid.columns) * width, row * height);
  });
  return { canvas, grid };
}

/** Draw a sheet over the box that its grid was made for. */
export function drawManifold({ context }, { canvas, grid: { columns, rows, cell } }) {
  context.imageSmoothingEnabled = canvas.width > columns * 96;
  context.drawImage(canvas, 0, 0, columns * cell[0], rows * cell[1]);
}
