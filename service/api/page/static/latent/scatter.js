// The map of the latent space: the points of a sample, entered by mouse, touch or keyboard.

import { rounded, useDecoded } from "./latent_space.js";
import { drawManifold, gridOf, useManifold } from "./manifold.js";
import {
  cleared, colourOf, coloursOfPage, drawNames, drawPath, drawPoints, drawRing, drawThumbnail, frameOf,
  glyphOf, pixelWithin, THUMBNAIL,
} from "./scatter_drawing.js";
import { curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Picture, useAttempt, useEffect, useId, useMedia, useMemo, useRef,
  useState,
} from "../shared/ui.js";

const MAX_CLASSES = 24; // in the legend; the points of all others are drawn too
const REACH = 24; // pixels between the pointer and a point that it means
const STEP = 6; // pixels that an arrow key goes at least; a marker's size
const LEAP = 60; // the same with the shift key
const DIRECTIONS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** The points of each class, largest class first: `{label, name, indices, places, median}`. */
function groupsOf(sample, places) {
  const members = new Map();
  places.forEach((_, i) => {
    const label = sample.labels ? sample.labels[i] : null;
    if (!members.has(label)) members.set(label, []);
    members.get(label).push(i);
  });
  const groups = [...members].map(([label, indices]) => ({
    label,
    name: label === null ? null : sample.classes?.[label] ?? texts.latent.className(label),
    indices,
    places: indices.map((i) => places[i]),
    median: [0, 1].map((axis) => median(indices.map((i) => places[i][axis]))),
  }));
  const shown = groups.sort((a, b) => b.indices.length - a.indices.length).slice(0, MAX_CLASSES);
  shown.sort((a, b) => a.label - b.label);
  return { groups, shown };
}

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
 * `path` are points of a walk. `onTake(z, words)` is called with the point that a person chooses.
 * `asImages`: what the network draws at each place instead of points, in two dimensions.
 */
export function Scatter({
  space, sample, z, looked, path, shape, chosen, onChosen, asImages, onAsImages, onTake,
}) {
  const box = useRef(null);
  const base = useRef(null);
  const marks = useRef(null);
  const size = useSize(box);
  const isDark = useMedia("(prefers-color-scheme: dark)");
  const colours = useMemo(coloursOfPage, [isDark]);
  const [probe, setProbe] = useState(null);
  const [error, attempt] = useAttempt();
  const hint = useId();
  const image = useDecoded(probe?.z, attempt);

  const places = useMemo(() => (sample?.mu ?? []).map(space.project), [space]);
  const { groups, shown } = useMemo(() => groupsOf(sample, places), [places]);
  const frame = useMemo(() => size && frameOf(places, ...size), [places, size?.join()]);
  const grid = useMemo(() => frame && gridOf(frame, shape), [frame]);
  const sheet = useManifold(grid, asImages, attempt);

  useEffect(() => {
    if (!frame) return;
    const context = cleared(base.current, frame);
    if (asImages && sheet) drawManifold(context, sheet);
    if (asImages) return;
    drawPoints(context, frame, groups, chosen, colours);
    drawNames(context, frame, shown, chosen, colours);
  }, [frame, groups, chosen, colours, asImages, sheet]);

  useEffect(() => {
    if (!frame) return;
    const context = cleared(marks.current, frame);
    if (path) drawPath(context, frame, path.map(space.project), colours);
    for (const seen of looked) {
      drawThumbnail(context, frame, space.project(seen.mu), seen, colours);
    }
    if (probe) drawRing(context, frame, probe.place, false, colours);
    drawRing(context, frame, space.project(z), true, colours);
  }, [frame, path, looked, probe, z, colours]);

  const isFree = asImages || !sample; // each place is one to go to, not only those of points
  const at = (z, words) => {
    const place = space.project(z);
    return { z: rounded(z), place, words: texts.latent.at(words, place) };
  };
  const placeAt = (pixel) =>
    at(rounded(frame.toPlace(pixel).slice(0, space.size)), texts.latent.place);
  /** The point for which `cost`, of its pixel, is least, or null if that is infinite. */
  const nearest = (cost) => {
    let [least, found] = [Infinity, null];
    for (const group of groups) {
      if (chosen !== null && chosen !== group.label) continue;
      group.places.forEach((place, k) => {
        const own = cost(...frame.toPixel(place));
        if (own < least) [least, found] = [own, { group, k }];
      });
    }
    return found && at(sample.mu[found.group.indices[found.k]], texts.latent.point(found.group.name));
  };
  const under = ({ clientX, clientY }) => {
    const { left, top } = marks.current.getBoundingClientRect();
    const [x, y] = [clientX - left, clientY - top];
    const seen = looked.findLast(({ mu }) => {
      const [px, py] = pixelWithin(frame, space.project(mu), THUMBNAIL / 2 + 2);
      return Math.max(Math.abs(px - x), Math.abs(py - y)) <= THUMBNAIL / 2;
    });
    if (seen) return at(seen.mu, texts.latent.lookedName(seen));
    if (isFree) return placeAt([x, y]);
    return nearest((px, py) => {
      const distance = Math.hypot(px - x, py - y);
      return distance <= REACH ? distance : Infinity;
    });
  };
  const show = (found) => found && setProbe(found);
  const take = (found) => {
    if (!found) return;
    setProbe(found);
    onTake(found.z, found.words);
  };
  const key = (event) => {
    const direction = DIRECTIONS[event.key];
    if (!direction && event.key !== "Enter") return;
    event.preventDefault();
    if (!direction) return take(probe);
    const [x, y] = pixelWithin(frame, probe?.place ?? space.project(z));
    if (isFree) {
      const cells = event.shiftKey ? 5 : 1;
      return show(placeAt([
        x + cells * direction[0] * grid.cell[0],
        y + cells * direction[1] * grid.cell[1],
      ]));
    }
    const least = event.shiftKey ? LEAP : STEP;
    return show(nearest((px, py) => {
      const along = (px - x) * direction[0] + (py - y) * direction[1];
      const across = Math.abs((px - x) * direction[1] + (py - y) * direction[0]);
      return along < least || across > along ? Infinity : along + 2 * across;
    }));
  };

  return html`<section class="card" aria-label=${texts.latent.map}>
    <div class="row spread">
      <h2>${texts.latent.map}</h2>
      ${space.size === 2 && html`<div class="row" role="group" aria-label=${texts.latent.mapShows}>
        ${[false, true].map((is) => html`<button type="button" aria-pressed=${`${asImages === is}`}
          onClick=${() => onAsImages(is)}>${texts.latent.mapKinds(is)}</button>`)}
      </div>`}
    </div>
    <p class="quiet small">${texts.latent.mapIs(space, sample)}</p>
    <div class="map">
      <div class="plot" ref=${box} tabindex="0" role="application" aria-describedby=${hint}
        aria-label=${texts.latent.mapLabel(sample)} onKeyDown=${key}
        onPointerMove=${(event) => show(under(event))} onClick=${(event) => take(under(event))}>
        <canvas ref=${base} aria-hidden="true" /><canvas ref=${marks} aria-hidden="true" />
      </div>
      <div class="side">
        <${Picture} image=${image} label=${texts.latent.drawn} />
        <p class="small" aria-live="polite">${probe ? probe.words : texts.latent.noProbe}</p>
        ${!isFree && shown[0].name !== null &&
        html`<${Legend} shown=${shown} chosen=${chosen} onChosen=${onChosen} />`}
      </div>
    </div>
    <p class="small quiet" id=${hint}>${texts.latent.mapHint(isFree)}</p>
    <${Failure} error=${error} />
    ${!isFree && html`<${ClassTable} shown=${shown} />`}
    <${Commands} ...${asImages && grid ? gridCommands(grid) : { curl: curlLine("/model/latents") }} />
  </section>`;
}

function Legend({ shown, chosen, onChosen }) {
  return html`<div class="legend" role="group" aria-label=${texts.latent.legend}>
    ${shown.map(({ label, name }) => html`<button type="button" aria-pressed=${`${chosen === label}`}
      onClick=${() => onChosen(chosen === label ? null : label)}>
      <span aria-hidden="true" style=${`color: var(${colourOf(label)})`}>${glyphOf(label)}</span>
      ${" "}${name}</button>`)}
  </div>`;
}

function ClassTable({ shown }) {
  return html`<details><summary class="quiet small">${texts.latent.asTable}</summary>
    <div class="scroll"><table>
      <thead><tr>${texts.latent.tableHead.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
      <tbody>${shown.map(({ name, indices, median }) => html`<tr>
        <th scope="row">${name ?? texts.latent.allImages}</th>
        <td>${indices.length}</td><td>${texts.latent.pair(median)}</td></tr>`)}</tbody>
    </table></div>
  </details>`;
}

function gridCommands(grid) {
  const [first, last] = [grid.points[0], grid.points.at(-1)];
  return {
    curl: curlLine("/decode", { file: "z.npy", accept: "image/png", out: "manifold.png" }),
    python: pythonLines([
      `x = np.linspace(${first[0]}, ${last[0]}, ${grid.columns})`,
      `y = np.linspace(${first[1]}, ${last[1]}, ${grid.rows})`,
      "z = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)",
      'np.save("z.npy", z)',
      "images = client.decode(z)",
    ], ["import numpy as np"]),
  };
}
