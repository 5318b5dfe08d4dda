// One image: the verdict in words, the pictures that explain it, and all scores.

import { mapPainter } from "../shared/pictures.js";
import { format, texts } from "../shared/texts.js";
import { Picture, Slider, html, useCallback, useMemo } from "../shared/ui.js";

/** False-alarm rates that a person chooses among; the service's own is added. */
const ALPHAS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3];

/** `shown` is what is known of the image, see `useLooking`. */
export function Verdict({ shown: { item, answer, warnings = [] }, n }) {
  const words = texts.look.verdict;
  const [p] = answer.p_value ?? [null];
  const state = stateOf(answer);
  return html`<div class=${`verdict is-${state}`} role="status" data-state=${state}>
    <p class="word"><span aria-hidden="true">${words.marks[state]}</span> ${words[state]}</p>
    <p>${p === null ? words.uncalibrated(answer.score_type) : words.sentence(p, n)}
      ${p !== null && answer.threshold === null && ` ${words.tooFew(answer.alpha)}`}</p>
    <p class="quiet small">${words.figures(item.name, answer.score_type, answer.score[0], p)}</p>
    ${warnings.map((text) => html`<p class="small warning">${text}</p>`)}
  </div>`;
}

/** The verdict in a few words, beside the pad where the screen has no room for all of it. */
export function ShortVerdict({ answer }) {
  const words = texts.look.verdict;
  const state = stateOf(answer);
  return html`<p class=${`mini is-${state}`} aria-hidden="true">${words.marks[state]}
    ${" "}${words.short(words[state], answer.p_value?.[0] ?? null)}</p>`;
}

function stateOf(answer) {
  if (!answer.is_anomaly) return "none";
  return answer.is_anomaly[0] ? "anomaly" : "normal";
}

/** The false-alarm rate as a slider, in steps that people use; `own` is that of the service. */
export function AlphaSlider({ alpha, own, onAlpha }) {
  const steps = useMemo(
    () => [...new Set([...ALPHAS, own ?? alpha, alpha])].sort((a, b) => a - b),
    [own, alpha],
  );
  return html`<div>
    <${Slider} label=${texts.look.alpha.label} name="alpha" min="0" max=${steps.length - 1} step="1"
      value=${steps.indexOf(alpha)} shown=${format.percent(alpha)}
      onInput=${(index) => onAlpha(steps[index])} />
    <p class="quiet small">${texts.look.alpha.words(alpha)}</p>
  </div>`;
}

/** The image as the network gets it, its reconstruction, and where it is unusual. */
export function Pictures({ shown: { image, actions, views }, isScaled, strength, onStrength }) {
  const map = views?.map;
  const draw = useCallback(map ? mapPainter(map, isScaled, strength) : () => {}, [
    map,
    isScaled,
    strength,
  ]);
  const words = texts.look.pictures;
  return html`<div>
    <p class="small">${isScaled ? words.detector : words.reason}</p>
    <div class="pictures three">
      <${Picture} image=${image} caption=${words.input} className="input" />
      <${Picture} image=${views?.reconstruction} caption=${words.reconstruction}
        className="reconstruction" />
      <${Picture} image=${map && image} draw=${draw} caption=${isScaled ? words.places : words.map}
        label=${words.mapLabel} className="marked" />
    </div>
    <${Slider} label=${words.strength} name="strength" min="0" max="2" step="0.1" value=${strength}
      shown=${format.percent(strength)} onInput=${onStrength} />
    <p class="quiet small">${isScaled ? words.scaled : words.errors}</p>
    ${actions?.length > 0 && html`<div class="actions">
      <h3>${words.actions}</h3>
      <ul>${actions.map((action) => html`<li>${action}</li>`)}</ul>
    </div>`}
  </div>`;
}

/** All scores of the image, `[{name, score, p}]`, and which of them is shown. */
export function ScoreTable({ rows, alpha, chosen, onChoose }) {
  const words = texts.look.scores;
  return html`<table class="scores">
    <caption class="visually-hidden">${words.caption}</caption>
    <thead><tr><th scope="col">${words.name}</th><th scope="col" class="number">${words.score}</th>
      <th scope="col" class="number">p</th><th scope="col">${words.verdict}</th></tr></thead>
    <tbody>
      ${rows.map(
        (row) => html`<tr key=${row.name} class=${row.name === chosen ? "chosen" : ""}>
          <th scope="row"><button type="button" aria-pressed=${String(row.name === chosen)}
            onClick=${() => onChoose(row.name)}>${row.name}</button>
            <span class="quiet small">${words.meanings[row.name] ?? ""}</span></th>
          <td class="number">${row.score === undefined ? "…" : format.number(row.score)}</td>
          <td class="number">${row.p == null ? "–" : format.p(row.p)}</td>
          <td>${row.p == null ? "–" : row.p <= alpha
            ? html`<span class="anomaly">▲ ${words.anomaly}</span>` : words.normal}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
