// A histogram that lies on its side, as a table: it can be read at any width, and aloud.

import { html } from "./ui.js";

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
