// New images that the network draws from random points, by seed and temperature.

import { rounded } from "./latent_space.js";
import { Tile } from "./tile.js";
import { array, curlLine, images, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Slider, useAttempt, useEffect, useId, useNewest, useState,
} from "../shared/ui.js";

export const MAX_SAMPLES = 64;

/** `state` has `n`, `seed` and `temperature`; `onChange(changes)` changes it. */
export function Samples({ state: { n, seed, temperature }, onChange, onTake }) {
  const words = texts.latent;
  const [drawn, setDrawn] = useState([]);
  const [chosen, setChosen] = useState(null);
  const [error, attempt] = useAttempt();
  const query = { n, seed, temperature: temperature === 1 ? null : temperature };

  const load = useNewest(attempt(async (wanted) => {
    setDrawn(images(await array("/sample", { query: { ...wanted, dtype: "uint8" } })));
    setChosen(null);
  }));
  useEffect(() => {
    load(query);
  }, [n, seed, temperature]);
  const take = attempt(async (i) => {
    const { data, shape } = await array("/encode", {
      body: drawn[i].pixels, type: "application/octet-stream",
    });
    setChosen(i);
    onTake(rounded([...data.subarray(0, shape.at(-1))]), words.sample(i + 1));
  });

  return html`<section class="card" aria-label=${words.samples}>
    <h2>${words.samples}</h2>
    <p class="quiet small">${words.samplesAre}</p>
    <div class="row">
      <${NumberField} label=${words.count} value=${n} min="1" max=${MAX_SAMPLES}
        onValue=${(value) => onChange({ n: value })} />
      <${NumberField} label=${words.seed} value=${seed} min="0" max=${2 ** 31}
        onValue=${(value) => onChange({ seed: value })} />
      <button type="button" onClick=${() => onChange({ seed: seed + 1 })}>${words.nextSeed}</button>
    </div>
    <div class="temperature"><${Slider} label=${words.temperature} name="temperature" min="0.1" max="2"
      step="0.05" value=${temperature} shown=${words.temperatureIs(temperature)}
      onInput=${(value) => onChange({ temperature: value })} /></div>
    <${Failure} error=${error} />
    <div class="tiles" role="group" aria-label=${words.samples}>
      ${drawn.map((image, i) => html`<${Tile} key=${i} image=${image} label=${words.sample(i + 1)}
        aria-pressed=${`${chosen === i}`} onClick=${() => take(i)} />`)}
    </div>
    <p class="quiet small">${words.samplesHint}</p>
    <${Commands} ...${sampleCommands(query)} />
  </section>`;
}

function NumberField({ label, value, min, max, onValue }) {
  const id = useId();
  const changed = ({ target }) => {
    if (target.validity.valid) onValue(Number(target.value));
  };
  return html`<div class="row"><label for=${id}>${label}</label>
    <input id=${id} type="number" min=${min} max=${max} value=${value} required onInput=${changed} /></div>`;
}

function sampleCommands(query) {
  const { n, ...named } = query;
  const options = Object.entries(named).map(([name, value]) => value !== null && `, ${name}=${value}`);
  return {
    curl: [
      curlLine("/sample", { query, accept: "application/x-npy", out: "samples.npy" }),
      curlLine("/encode", { file: "samples.npy" }),
    ].join("\n"),
    python: pythonLines([
      `images = client.sample(${n}${options.filter(Boolean).join("")})`,
      "mu = client.encode(images).mu",
    ]),
  };
}
