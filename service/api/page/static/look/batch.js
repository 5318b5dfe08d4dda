// Many files at once: a table to sort, to save, and to judge as a whole.

import { thumbnailOf } from "../shared/pictures.js";
import { curlLine, json, pythonLines } from "../shared/service.js";
import { flagged, flaggedByRate } from "./significance.js";
import { format, texts } from "../shared/texts.js";
import {
  Commands, Picture, html, save, useEffect, useMemo, useRef, useState,
} from "../shared/ui.js";
import { seedOf } from "./looking.js";

const AT_ONCE = 4; // requests: enough for the service to batch them, few enough for others

/**
 * Scores many files: `[batch, start(files, score, invert), close()]`. `batch` is null or `{score,
 * invert, rows}`, its rows `{index, file, name, thumbnail, score, p, error}`.
 */
export function useBatch() {
  const [batch, setBatch] = useState(null);
  const work = useRef(null);
  const stop = () => work.current?.abort();
  useEffect(() => stop, []);
  const start = async (files, score, invert) => {
    work.current = new AbortController();
    const { signal } = work.current;
    setBatch({ score, invert, rows: files.map((file, index) => ({ file, index, name: file.name })) });
    const change = (index, fields) => signal.aborted || setBatch((now) =>
      now && { ...now, rows: now.rows.with(index, { ...now.rows[index], ...fields }) });
    scoreFiles(files, { score, ...seedOf(score), ...(invert ? { invert } : {}) }, signal, change);
    for (const [index, file] of files.entries()) {
      if (signal.aborted) return;
      change(index, { thumbnail: await thumbnailOf(file) });
    }
  };
  const close = () => {
    stop();
    setBatch(null);
  };
  return [batch, start, close];
}

/** Score `files` one request each, and hand each row over as it arrives. */
async function scoreFiles(files, query, signal, onRow) {
  let next = 0;
  const work = async () => {
    while (next < files.length && !signal.aborted) {
      const index = next++;
      try {
        const answer = await json("/anomaly-score", { query, body: files[index], signal });
        onRow(index, { score: answer.score[0], p: answer.p_value?.[0] ?? null });
      } catch (error) {
        if (error.name !== "AbortError") onRow(index, { error: error.message });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

const byName = new Intl.Collator(undefined, { numeric: true }); // image-2 before image-10

const COLUMNS = ["name", "score", "p"];

/** `alpha` is the false-alarm rate that is shown, `setAlpha` null where it is the service's own. */
export function Batch({ batch: { rows, score, invert }, alpha, setAlpha, onOpen, onClose }) {
  const [controlsRate, setControlsRate] = useState(false);
  const [order, setOrder] = useState({ column: "p", up: true });
  const words = texts.look.batch;
  const done = rows.filter((row) => row.error || row.score !== undefined);
  const judged = rows.filter((row) => row.p != null);
  const verdicts = useMemo(() => {
    const decide = controlsRate ? flaggedByRate : flagged;
    const results = decide(judged.map((row) => row.p), alpha);
    return new Map(judged.map((row, i) => [row, results[i]]));
  }, [rows, alpha, controlsRate]);
  const sorted = [...rows].sort((a, b) => {
    const [x, y] = [a[order.column], b[order.column]];
    if (x == null || y == null) return (x == null) - (y == null);
    const difference = order.column === "name" ? byName.compare(x, y) : x - y;
    return order.up ? difference : -difference;
  });
  const sortBy = (column) =>
    setOrder({ column, up: order.column === column ? !order.up : column !== "score" });
  const anomalies = [...verdicts.values()].filter(Boolean).length;
  const saveCsv = () => {
    const quote = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const lines = sorted.map((row) =>
      [quote(row.name), row.score ?? "", row.p ?? "", verdicts.get(row) ?? "",
        quote(row.error ?? "")].join(","),
    );
    const text = ["name,score,p_value,is_anomaly,error", ...lines, ""].join("\r\n");
    save(new Blob([text], { type: "text/csv" }), "scores.csv");
  };
  return html`<section class="card batch" aria-labelledby="batch">
    <h2 id="batch">${words.heading(rows.length, score)}</h2>
    <p role="status">${done.length < rows.length
      ? words.progress(done.length, rows.length)
      : words.summary(anomalies, judged.length, rows.length - judged.length)}</p>
    <div class="row">
      <label class="check"><input type="checkbox" checked=${controlsRate}
        onChange=${(event) => setControlsRate(event.target.checked)} /> ${words.rate(alpha)}</label>
      <button type="button" onClick=${saveCsv}>${words.csv}</button>
      <button type="button" onClick=${onClose}>${words.close}</button>
    </div>
    <div class="scroll" tabindex="0" role="group" aria-label=${words.table}>
      <table>
        <thead><tr>
          <td></td>
          ${COLUMNS.map((column) => html`<th scope="col" class=${column === "name" ? "" : "number"}
            aria-sort=${order.column !== column ? null : order.up ? "ascending" : "descending"}>
            <button type="button" onClick=${() => sortBy(column)}>${words.columns[column]}
              <span aria-hidden="true">${order.column === column ? (order.up ? " ↑" : " ↓") : ""}</span>
            </button></th>`)}
          <th scope="col">${words.verdict}</th>
        </tr></thead>
        <tbody>${sorted.map((row) => html`<tr key=${row.index}>
          <td class="thumb">${row.thumbnail && html`<${Picture} image=${row.thumbnail} label="" />`}</td>
          <th scope="row"><button type="button" onClick=${() => onOpen(row.file)}>${row.name}</button></th>
          <td class="number">${row.score === undefined ? "" : format.number(row.score)}</td>
          <td class="number">${row.p == null ? "" : format.p(row.p)}</td>
          <td>${row.error ? html`<span class="small">${row.error}</span>`
            : !verdicts.has(row) ? (row.score === undefined ? "…" : "–")
            : verdicts.get(row) ? html`<span class="anomaly">▲ ${words.anomaly}</span>` : words.normal}</td>
        </tr>`)}</tbody>
      </table>
    </div>
    <${Commands} ...${commandsOf(score, setAlpha, controlsRate, invert)} />
  </section>`;
}

function commandsOf(score, alpha, controlsRate, invert) {
  const query = { score, alpha, ...seedOf(score), fdr: controlsRate ? "bh" : null };
  if (invert) query.invert = true;
  const options = [
    `score=${JSON.stringify(score)}`,
    alpha && `alpha=${alpha}`,
    "seed" in query && `seed=${query.seed}`,
    controlsRate && "fdr=True",
    invert && "invert=True",
  ].filter(Boolean);
  return {
    curl: `${curlLine("/anomaly-score", { query })} -F images=@first.png -F images=@second.png`,
    python: pythonLines([
      `print(client.anomaly_score(["first.png", "second.png"], ${options.join(", ")}))`,
    ]),
  };
}
