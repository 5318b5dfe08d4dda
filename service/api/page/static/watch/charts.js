// Lines over time and histograms, each with or as a table, for who does not see them.

import { texts } from "../shared/texts.js";
import { html } from "../shared/ui.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

/** A time in seconds, as a clock shows it. */
export const clockTime = (time) => clock.format(time * 1000);

/** The smallest of 1, 2, 5, 10, 20, … times a power of ten that is not below a value. */
export function roundedUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((each) => value <= each * power * 1.000001);
}

/**
 * `lines` are `[{name, look, values}]`, a value for each of `times`, or null, where a line breaks;
 * `look` has classes of the style sheet. `seconds` is the length of the window, which ends at `end`;
 * `shown` words a value.
 */
export function LineChart({ label, times, lines, end, seconds, shown }) {
  const words = texts.watch.chart;
  const known = ({ values }) => values.filter((value) => value !== null);
  const top = roundedUp(Math.max(...lines.flatMap(known)) || 1);
  const path = (values) => {
    let isOpen = false;
    return values.map((value, i) => {
      const command = value === null ? "" : `${isOpen ? "L" : "M"}${times[i] - end + seconds} ${
        100 - (100 * value) / top}${isOpen ? "" : "h0"}`;
      isOpen = value !== null;
      return command;
    }).join("");
  };
  return html`<div class="timeline" role="img" aria-label=${words.label(label)}>
      <div class="y">${[top, top / 2, 0].map((value) => html`<span>${value ? shown(value) : 0}</span>`)}</div>
      <svg viewBox=${`0 0 ${seconds} 100`} preserveAspectRatio="none">
        ${[0, 50, 100].map((y) => html`<path class="rule" d=${`M0 ${y}H${seconds}`} />`)}
        ${lines.map(({ look, values }) => html`<path class=${look} d=${path(values)} />`)}
      </svg>
      <${Axis} values=${[end - seconds, end - seconds / 2, end]} shown=${clockTime} />
    </div>
    <table class="lines">
      <caption class="visually-hidden">${label}</caption>
      <thead><tr><th scope="col">${words.line}</th>
        ${words.figures.map((name) => html`<th scope="col" class="number">${name}</th>`)}</tr></thead>
      <tbody>${lines.map((line) => {
        const all = known(line);
        const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
        return html`<tr key=${line.name}>
          <th scope="row"><svg viewBox="0 0 28 4" aria-hidden="true"><path class=${line.look}
            d="M0 2H28" /></svg> ${line.name}</th>
          ${[line.values.at(-1) ?? NaN, mean, Math.max(...all)].map((value) =>
            html`<td class="number">${Number.isFinite(value) ? shown(value) : "–"}</td>`)}
        </tr>`;
      })}</tbody>
    </table>`;
}

/** Numbers along a scale, from its start to its end. */
export const Axis = ({ values, shown }) => html`<div class="axis">${values.map(
  (value) => html`<span>${value ? shown(value) : 0}</span>`)}</div>`;

/**
 * What lies on a scale from 0 to `end`: a bar up to `bar`, which has a point where it is cut, or a
 * dot at `dot`; a range from `low` to `high`, if they are known; and a dashed line at `line`.
 */
export function Track({ end, bar, dot, low, high, line, isMarked }) {
  const at = (value) => `${Math.min(1, value / end) * 100}%`;
  return html`<span class=${`track ${isMarked ? "marked" : ""}`} aria-hidden="true">
    ${bar !== undefined && html`<i class=${`bar ${bar > end ? "cut" : ""}`} style=${{ width: at(bar) }} />`}
    ${low >= 0 && html`<i class="range"
      style=${{ left: at(low), width: at(Math.min(high, end) - low) }} />`}
    ${dot !== undefined && html`<i class="dot" style=${{ left: at(dot) }} />`}
    ${line !== undefined && html`<i class="line" style=${{ left: at(line) }} />`}
  </span>`;
}

/** `heads` are of three columns; `rows` are `[{label, count, text, track, isMarked}]`. */
export function Bars({ caption, heads: [name, count, bar], rows }) {
  return html`<table class="bars">
    <caption class="visually-hidden">${caption}</caption>
    <thead><tr><th scope="col">${name}</th><th scope="col" class="number">${count}</th>
      <th scope="col" class="wide" colspan="2">${bar}</th></tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr key=${row.label}>
        <th scope="row">${row.label}</th><td class="number">${row.count}</td>
        <td class="wide" aria-hidden="true"><${Track} ...${row.track} isMarked=${row.isMarked} /></td>
        <td class=${`number ${row.isMarked ? "anomaly" : ""}`}>${row.isMarked ? "▲ " : ""}${row.text}</td>
      </tr>`,
    )}</tbody>
  </table>`;
}
