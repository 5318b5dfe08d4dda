// Lines over time and histograms, each with or as a table, for who does not see them.

import { texts } from "../shared/texts.js";
import { html } from "../shared/ui.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

/** A time in seconds, as a clock shows it. */
export const clockTime = (time) => clock.format(time * 1000);

/** The smallest of 1, 2, 5, 10, 20, … times a power of ten that is not below a value. */
function roundedUp(value) {
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
      <div class="x">${[seconds, seconds / 2, 0].map(
        (ago) => html`<span>${clockTime(end - ago)}</span>`)}</div>
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

const percent = (part) => `${Math.max(0, Math.min(1, part)) * 100}%`;

/**
 * What lies on a scale from 0 to `end`: a bar up to `bar`, or a dot at `dot`; an interval from `low`
 * to `high`; and a dashed line at `line`.
 */
export function Track({ end, bar, dot, low, high, line, isMarked }) {
  const at = (value) => percent(value / end);
  return html`<span class=${`track ${isMarked ? "marked" : ""}`} aria-hidden="true">
    ${bar !== undefined && html`<i class="bar" style=${{ width: at(bar) }} />`}
    ${low !== undefined && html`<i class="interval"
      style=${{ left: at(low), width: percent(Math.min(high, end) / end - low / end) }} />`}
    ${dot !== undefined && html`<i class="dot" style=${{ left: at(dot) }} />`}
    ${line !== undefined && html`<i class="line" style=${{ left: at(line) }} />`}
  </span>`;
}

/** `heads` are of three columns; `rows` are `[{label, count, text, track, isMarked}]`. */
export function Bars({ caption, heads, rows }) {
  return html`<table class="bars">
    <caption class="visually-hidden">${caption}</caption>
    <thead><tr>${heads.map(
      (head, i) => html`<th scope="col" class=${i === 1 ? "number" : ""}>${head}</th>`,
    )}</tr></thead>
    <tbody>${rows.map(
      ({ label, count, text, track, isMarked }) => html`<tr key=${label}>
        <th scope="row">${label}</th><td class="number">${count}</td>
        <td><div><${Track} ...${track} isMarked=${isMarked} />
          <span class=${isMarked ? "anomaly" : ""}>${isMarked ? "▲ " : ""}${text}</span></div></td>
      </tr>`,
    )}</tbody>
  </table>`;
}
