// The map of the latent space: the points of a sample, entered by mouse, touch or keyboard.

import { decode, rounded, useDecoded } from "./latent_space.js";
import {
  colourOf, coloursOfPage, drawManifold, drawNames, drawPath, drawPoints, drawRing, frameOf,
  glyphOf, gridOf, penFor, pixelWithin, sheetOf,
} from "./scatter_drawing.js";
import { Tile } from "./tile.js";
import { curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Picture, useAttempt, useEffect, useId, useMedia, useMemo, useNewest,
  useRef, useState,
} from "../shared/ui.js";

const MAX_CLASSES = 24; // with a name on the map and in the legend
const REACH = 24; // pixels between the pointer and a point that it means
const STEP = 6; // pixels that an arrow key goes at least; a marker's size
const LEAP = 60; // the same with the shift key
const DIRECTIONS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

/** The points of a sample, each `{mu, place, label, name}`; the last two are null without labels. */
const pointsOf = (sample, project) =>
  (sample?.mu ?? []).map((mu, i) => {
    const label = sample.labels?.[i] ?? null;
    const name = label === null ? null : sample.classes?.[label] ?? `${label}`;
    return { mu, place: project(mu), label, name };
  });

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** The classes of points, by label, each `{label, name, median}`. */
const groupsOf = (points) =>
  [...Map.groupBy(points, ({ label }) => label)]
    .map(([label, own]) => ({
      label,
      name: own[0].name,
      median: [0, 1].map((axis) => median(own.map(({ place }) => place[axis]))),
    }))
    .sort((a, b) => a.label - b.label)
    .slice(0, MAX_CLASSES);

function useSize(box) {
  const [size, setSize] = useState(null);
  useEffect(() => {
    const observer = new ResizeObserver(([{ contentRect }]) =>
      setSize([Math.round(contentRect.width), Math.round(contentRect.height)]));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return size;
}

/**
 * `points` are those of a walk. `onTake(z, words)` is called with the point that a person chooses,
 * `onChange(changes)` changes the state. In two dimensions, the map can be of what the network draws
 * at each place, instead of points.
 */
export function Scatter({ space, sample, state, looked, points: path, shape, onChange, onTake }) {
  const words = texts.latent;
  const { z, class: chosen } = state;
  const asImages = space.size === 2 && state.map === "images";
  const box = useRef(null);
  const base = useRef(null);
  const marks = useRef(null);
  const size = useSize(box);
  const isDark = useMedia("(prefers-color-scheme: dark)");
  const colour = useMemo(() => coloursOfPage(isDark), [isDark]);
  const [probe, setProbe] = useState(null);
  const [error, attempt] = useAttempt();
  const hint = useId();
  const image = useDecoded(probe?.z, attempt);

  const points = useMemo(() => pointsOf(sample, space.project), [space]);
  const groups = useMemo(() => groupsOf(points), [points]);
  const frame = useMemo(
    () => size && frameOf(points.map(({ place }) => place), ...size), [points, size?.join()]);
  const grid = useMemo(() => frame && gridOf(frame, shape), [frame]);
  const [sheet, setSheet] = useState(null);
  const load = useNewest(
    attempt(async (wanted) => setSheet(sheetOf(wanted, await decode(wanted.points)))));
  useEffect(() => {
    if (asImages && grid) load(grid);
  }, [asImages, grid]);

  useEffect(() => {
    if (!frame) return;
    const pen = penFor(base.current, frame, colour);
    if (asImages) return sheet && drawManifold(pen, sheet);
    drawPoints(pen, points, chosen);
    drawNames(pen, groups, chosen);
  }, [frame, groups, chosen, colour, asImages, sheet]);

  useEffect(() => {
    if (!frame) return;
    const pen = penFor(marks.current, frame, colour);
    drawPath(pen, path.map(space.project));
    if (probe) drawRing(pen, probe.place);
    drawRing(pen, space.project(z), true);
  }, [frame, path, probe, z, colour]);

  const isFree = asImages || !sample; // each place is one to go to, not only those of points
  const at = (mu, name) => {
    const z = rounded(mu);
    const place = space.project(z);
    return { z, place, words: words.at(name, place) };
  };
  const placeAt = (pixel) => at(frame.toPlace(pixel).slice(0, space.size), words.place);
  /** The point whose pixel has the lowest `cost`, or null if that is infinite for all. */
  const nearest = (cost) => {
    let [min, point] = [Infinity, null];
    for (const one of points) {
      const own = chosen === null || chosen === one.label ? cost(...frame.toPixel(one.place)) : Infinity;
      if (own < min) [min, point] = [own, one];
    }
    return point && at(point.mu, words.point(point.name));
  };
  const under = ({ target, clientX, clientY }) => {
    const seen = looked[target.dataset.seen];
    if (seen) return at(seen.mu, words.lookedName(seen));
    const { left, top } = marks.current.getBoundingClientRect();
    const [x, y] = [clientX - left, clientY - top];
    if (isFree) return placeAt([x, y]);
    return nearest((px, py) => {
      const distance = Math.hypot(px - x, py - y);
      return distance <= REACH ? distance : Infinity;
    });
  };
  const show = (one) => one && setProbe(one);
  const take = (one) => {
    show(one);
    if (one) onTake(one.z, one.words);
  };
  const key = (event) => {
    const direction = DIRECTIONS[event.key];
    if (!direction && (event.key !== "Enter" || event.target.dataset.seen)) return;
    event.preventDefault();
    if (!direction) return take(probe);
    const [dx, dy] = direction;
    const [x, y] = pixelWithin(frame, probe?.place ?? space.project(z));
    const min = event.shiftKey ? LEAP : STEP;
    if (isFree) return show(placeAt([x + 3 * min * dx, y + 3 * min * dy]));
    return show(nearest((px, py) => {
      const along = (px - x) * dx + (py - y) * dy;
      const across = Math.abs((px - x) * dy + (py - y) * dx);
      return along < min || across > along ? Infinity : along + 2 * across;
    }));
  };

  return html`<section class="card" aria-label=${words.map}>
    <div class="row spread">
      <h2>${words.map}</h2>
      ${space.size === 2 && html`<div class="row" role="group" aria-label=${words.map}>
        ${["points", "images"].map((kind) => html`<button type="button"
          aria-pressed=${`${asImages === (kind === "images")}`} onClick=${() => onChange({ map: kind })}>
          ${words.mapKinds[kind]}</button>`)}
      </div>`}
    </div>
    <p class="quiet small">${words.mapIs(space, isFree ? null : sample)}</p>
    <div class="map">
      <div class="latent-map" ref=${box} tabindex="0" role="application" aria-describedby=${hint}
        aria-label=${words.mapLabel(sample)} onKeyDown=${key}
        onPointerMove=${(event) => show(under(event))} onClick=${(event) => take(under(event))}>
        <canvas ref=${base} aria-hidden="true" />
        ${frame && looked.map((seen, i) => {
          const [x, y] = pixelWithin(frame, space.project(seen.mu), 16);
          return html`<${Tile} key=${seen.key} data-seen=${i} image=${seen.thumbnail}
            label=${words.lookedName(seen)} kind=${seen.isAnomaly ? "unusual" : ""}
            style=${`left:${x}px;top:${y}px`} />`;
        })}
        <canvas ref=${marks} aria-hidden="true" />
      </div>
      <div class="side">
        <${Picture} image=${image} label=${words.drawn} />
        <p class="small" aria-live="polite">${probe ? probe.words : words.noProbe}</p>
        ${!isFree && points[0].name !== null &&
        html`<${Legend} groups=${groups} chosen=${chosen} onChange=${onChange} />`}
      </div>
    </div>
    <p class="small quiet" id=${hint}>${words.mapHint}</p>
    <${Failure} error=${error} />
    <${Commands} ...${asImages && grid ? gridCommands(grid) : { curl: curlLine("/model/latents") }} />
  </section>`;
}

function Legend({ groups, chosen, onChange }) {
  return html`<div class="legend" role="group" aria-labelledby="legend">
    <span class="small quiet" id="legend">${texts.latent.legend}</span>
    ${groups.map(({ label, name }) => html`<button type="button" aria-pressed=${`${chosen === label}`}
      onClick=${() => onChange({ class: chosen === label ? null : label })}>
      <span aria-hidden="true" style=${`color: var(${colourOf(label)})`}>${glyphOf(label)}</span>
      ${" "}${name}</button>`)}
  </div>`;
}

function gridCommands({ points, columns, rows }) {
  const [first, last] = [points[0], points.at(-1)];
  return {
    curl: curlLine("/decode", { file: "z.npy", accept: "image/png", out: "manifold.png" }),
    python: pythonLines([
      `x = np.linspace(${first[0]}, ${last[0]}, ${columns})`,
      `y = np.linspace(${first[1]}, ${last[1]}, ${rows})`,
      "z = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)",
      'np.save("z.npy", z)',
      "images = client.decode(z)",
    ], ["import numpy as np"]),
  };
}
