// What is drawn on the map of the latent space.

import { imageData } from "../shared/pictures.js";

const COLOURS = 10; // --class-0 to --class-9 in page.css
const GLYPHS = "●■▲◆▼";
const BASICS = ["--ink", "--quiet", "--card", "--accent"];

export const colourOf = (label) => `--class-${label % COLOURS}`;
export const glyphOf = (label) => GLYPHS[(label + Math.floor(label / COLOURS)) % GLYPHS.length];

/** The colours of page.css as canvases need them, dark or light, whichever holds. */
export function coloursOfPage() {
  const probe = document.body.appendChild(document.createElement("span"));
  const names = [...BASICS, ...Array.from({ length: COLOURS }, (_, label) => colourOf(label))];
  const found = Object.fromEntries(names.map((name) => {
    probe.style.color = `var(${name})`;
    return [name, getComputedStyle(probe).color];
  }));
  probe.remove();
  return found;
}

/** Between places of the latent space and pixels of a box, with one scale for both axes. */
export function frameOf(places, width, height) {
  const [xs, ys] = [0, 1].map((axis) => {
    const low = places.reduce((least, place) => Math.min(least, place[axis]), -3);
    const high = places.reduce((most, place) => Math.max(most, place[axis]), 3);
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

/** The context of a canvas of `frame`'s size, cleared, in CSS pixels. */
export function cleared(canvas, { width, height }) {
  const ratio = devicePixelRatio;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.textAlign = "center";
  context.textBaseline = "middle";
  return context;
}

/** The points of each group. If `chosen` is the label of one, the others are faint. */
export function drawPoints(context, frame, groups, chosen, colours) {
  context.font = `${frame.width < 500 ? 6 : 8}px sans-serif`;
  for (const { label, places } of groups) {
    context.globalAlpha = chosen === null || chosen === label ? 0.75 : 0.08;
    context.fillStyle = colours[label === null ? "--quiet" : colourOf(label)];
    for (const place of places) context.fillText(glyphOf(label ?? 0), ...frame.toPixel(place));
  }
  context.globalAlpha = 1;
}

/** The names of groups at their medians, or below where they would cover one another. */
export function drawNames(context, frame, groups, chosen, colours) {
  const height = frame.width < 500 ? 12 : 14;
  context.font = `600 ${height}px ${getComputedStyle(document.body).fontFamily}`;
  context.lineJoin = "round";
  context.strokeStyle = colours["--card"];
  context.fillStyle = colours["--ink"];
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
export function pixelWithin(frame, place, margin = 8) {
  const [x, y] = frame.toPixel(place);
  return [
    Math.max(margin, Math.min(frame.width - margin, x)),
    Math.max(margin, Math.min(frame.height - margin, y)),
  ];
}

/** Stroke what was traced, over a wider line that sets it off from points and images. */
function strokeTwice(context, colours, name, width) {
  for (const [colour, lineWidth] of [["--card", width + 3], [name, width]]) {
    context.strokeStyle = colours[colour];
    context.lineWidth = lineWidth;
    context.stroke();
  }
}

export function drawPath(context, frame, places, colours) {
  context.beginPath();
  places.forEach((place) => context.lineTo(...pixelWithin(frame, place)));
  strokeTwice(context, colours, "--ink", 1.5);
}

/** A ring at a place; with `isHere` that of the sliders' point, which has a dot in it. */
export function drawRing(context, frame, place, isHere, colours) {
  const colour = isHere ? "--accent" : "--ink";
  const at = pixelWithin(frame, place);
  context.beginPath();
  context.arc(...at, 8, 0, 2 * Math.PI);
  strokeTwice(context, colours, colour, 2.5);
  if (!isHere) return;
  context.beginPath();
  context.arc(...at, 3, 0, 2 * Math.PI);
  context.fillStyle = colours[colour];
  context.fill();
}

export const THUMBNAIL = 28; // CSS pixels

/** An image that was looked at, framed; the frame of an unusual one is thicker. */
export function drawThumbnail(context, frame, place, { thumbnail, isAnomaly }, colours) {
  const [, height, width] = thumbnail.shape;
  const bitmap = new OffscreenCanvas(width, height);
  bitmap.getContext("2d").putImageData(imageData(thumbnail), 0, 0);
  const [x, y] = pixelWithin(frame, place, THUMBNAIL / 2 + 2).map((at) => at - THUMBNAIL / 2);
  context.drawImage(bitmap, x, y, THUMBNAIL, THUMBNAIL);
  context.beginPath();
  context.rect(x, y, THUMBNAIL, THUMBNAIL);
  strokeTwice(context, colours, isAnomaly ? "--accent" : "--ink", isAnomaly ? 3 : 1.5);
}
