// The view of what the service is doing: /metrics every two seconds, drawn and put into words.

import { Bars } from "./bars.js";
import { countOf, quantile, since, together } from "./buckets.js";
import { bytes, number, seconds as time } from "./figures.js";
import { Drift } from "./linked.js";
import { LineChart, clockTime } from "./line_chart.js";
import { usePolling } from "./polling.js";
import { AnomalyShare, PValues, readPValues } from "./p_values.js";
import { Recent } from "./recent.js";
import { call, curlLine } from "./service.js";
import { useSettings } from "./settings.js";
import { durationsSince, points, rate, snapshot, windowStart, withSnapshot } from "./snapshots.js";
import { rememberState } from "./state.js";
import { Summary, notable } from "./summary.js";
import { format, texts } from "./texts.js";
import { Commands, Failure, html, useEffect, useState } from "./ui.js";

const EVERY_MS = 2000;
const DRIFT_S = 30;
const WINDOWS = [1, 2, 5, 10]; // minutes
const SHARES = [0.5, 0.95, 0.99];
const LOOKS = ["ink", "quiet dashed", "quiet dotted"]; // of lines
const STATUSES = { "2xx": "ink", "4xx": "quiet dashed", "5xx": "accent dotted" };

let kept = []; // snapshots outlive the view

export function Watch({ model, params }) {
  const words = texts.watch;
  const minutesOf = ({ minutes }) => WINDOWS.find((each) => each === Number(minutes)) ?? 5;
  const [minutes, setMinutes] = useState(minutesOf(params));
  const [isPaused, setPaused] = useState(params.paused === "true");
  const [isWindow, setIsWindow] = useState(params.p === "window");
  const [history, setHistory] = useState(kept);
  const [error, setError] = useState(null);
  const settings = useSettings();

  useEffect(() => {
    setMinutes(minutesOf(params));
    setPaused(params.paused === "true");
    setIsWindow(params.p === "window");
  }, [params]);
  useEffect(() => {
    rememberState("watch", {
      minutes: minutes === 5 ? null : minutes,
      paused: isPaused ? true : null,
      p: isWindow ? "window" : null,
    });
  }, [minutes, isPaused, isWindow]);

  // Paused from the start, by a link: once, so that there is something to see.
  usePolling(async () => {
    try {
      const text = await (await call("/metrics", { accept: "text/plain" })).text();
      kept = withSnapshot(kept, snapshot(text, Date.now() / 1000));
      setHistory(kept);
      setError(null);
      return !isPaused;
    } catch (failure) {
      setError(failure);
      return failure.status === 0 || failure.status >= 500;
    }
  }, EVERY_MS, isPaused && kept.length > 0);

  const controls = html`<div class="row controls">
    <div class="row" role="group" aria-label=${words.window}>
      ${WINDOWS.map((each) => html`<button type="button" aria-pressed=${String(each === minutes)}
        onClick=${() => setMinutes(each)}>${words.minutes(each)}</button>`)}
    </div>
    <button type="button" aria-pressed=${String(isPaused)} onClick=${() => setPaused(!isPaused)}>
      ${words.pause}</button>
    <span class="quiet small">${history.length > 0 && words.updated(clockTime(history.at(-1).time))}</span>
  </div>`;
  const view = history.length > 0 &&
    html`<${Dashboard} ...${{ model, minutes, history, settings, isPaused, isWindow, setIsWindow }}
      isDown=${error?.status === 0} />`;
  return html`<p class="lead">${words.lead}</p>
    ${controls}
    <${Failure} error=${error} />
    ${view}
    <${Commands} curl=${[
      curlLine("/metrics"),
      settings.valueOf("recent_images") > 0 && curlLine("/recent"),
    ].filter(Boolean).join("\n")} />`;
}

function Dashboard(props) {
  const { model, minutes, history, settings, isPaused, isWindow, setIsWindow, isDown } = props;
  const words = texts.watch;
  const now = history.at(-1);
  const then = windowStart(history, 60 * minutes);
  const span = words.last(time(Math.round(now.time - then.time)));
  const alpha = settings.valueOf("alpha");
  const n = model.calibration?.n;
  const pValues = now.pValues && {
    started: readPValues(now.pValues, alpha ?? 0.01, n),
    window: readPValues(since(now.pValues, then.pValues), alpha ?? 0.01, n),
  };
  const recent = settings.valueOf("recent_images");
  const shared = { now, then, span, settings };
  const lines = { times: points(history, 60 * minutes), end: now.time, seconds: 60 * minutes };

  return html`
    <${Summary} codes=${notable({ ...shared, isDown, alpha, pValues: pValues?.window })} />
    ${recent !== undefined && html`<section class="card" aria-labelledby="recent">
      <h2 id="recent">${words.recent.heading}</h2>
      ${recent > 0
        ? html`<${Recent} everyMs=${EVERY_MS} isPaused=${isPaused} alpha=${alpha}
            workers=${settings.valueOf("workers")} />`
        : html`<p class="quiet">${words.recent.off}</p>`}
    </section>`}
    <div class="columns even watch">
      <div class="stack">
        <section class="card" aria-labelledby="anomalies">
          <h2 id="anomalies">${words.anomalies.heading}</h2>
          <${AnomalyShare} label=${words.started} hits=${now.anomalies} n=${now.scored} alpha=${alpha} />
          <${AnomalyShare} label=${span} hits=${now.anomalies - then.anomalies}
            n=${now.scored - then.scored} alpha=${alpha} />
          <p class="quiet small">${words.anomalies.about(alpha)}</p>
        </section>
        ${pValues && html`<section class="card" aria-labelledby="p-values">
          <h2 id="p-values">${words.pValues.heading}</h2>
          <p class="quiet small">${words.pValues.about}</p>
          <div class="row" role="group" aria-label=${words.pValues.over}>
            ${[false, true].map((each) => html`<button type="button"
              aria-pressed=${String(each === isWindow)} onClick=${() => setIsWindow(each)}>
              ${each ? span : words.started}</button>`)}
          </div>
          <${PValues} reading=${isWindow ? pValues.window : pValues.started} />
        </section>`}
        <${Drift} turn=${Math.floor(now.time / DRIFT_S)} />
        <${Refusals} ...${shared} />
      </div>
      <div class="stack">
        <${Requests} ...${lines} />
        <${Latency} ...${lines} ...${shared} />
      </div>
      <${Queue} ...${lines} ...${shared} />
      <${Batches} ...${shared} />
    </div>`;
}

function Requests({ times, end, seconds }) {
  const words = texts.watch.requests;
  const seen = Object.keys(times.at(-1).later.requests);
  const names = [...new Set([...Object.keys(STATUSES), ...seen])].sort();
  return html`<section class="card" aria-labelledby="requests">
    <h2 id="requests">${words.heading}</h2>
    <${LineChart} label=${words.label} end=${end} seconds=${seconds} shown=${number}
      times=${times.map((point) => point.time)}
      lines=${names.map((name) => ({
        name: words.statuses[name] ?? name,
        look: STATUSES[name] ?? "quiet dotted",
        values: times.map((point) => rate(point, ({ requests }) => requests[name])),
      }))} />
    <p class="quiet small">${words.about}</p>
  </section>`;
}

function Latency({ times, end, seconds, now, then, span }) {
  const words = texts.watch.latency;
  const each = times.map(({ later, earlier }) =>
    earlier ? together(Object.values(durationsSince(later, earlier))) : null,
  );
  const routes = Object.entries(durationsSince(now, then === now ? null : then));
  return html`<section class="card" aria-labelledby="latency">
    <h2 id="latency">${words.heading}</h2>
    <${LineChart} label=${words.label} end=${end} seconds=${seconds} shown=${time}
      times=${times.map((point) => point.time)}
      lines=${SHARES.map((share, i) => ({
        name: words.share(share),
        look: LOOKS[i],
        values: each.map((buckets) => quantile(buckets, share)?.value ?? null),
      }))} />
    <div class="scroll" tabindex="0" role="region" aria-label=${words.routes}>
      <table class="routes">
        <caption>${words.caption(then === now ? texts.watch.started : span)}</caption>
        <thead><tr><th scope="col">${words.route}</th>
          <th scope="col" class="number">${words.requests}</th>
          ${SHARES.map((share) => html`<th scope="col" class="number">${words.share(share)}</th>`)}
        </tr></thead>
        <tbody>${routes.map(([route, buckets]) => html`<tr key=${route}>
          <th scope="row">${route}</th><td class="number">${number(countOf(buckets))}</td>
          ${SHARES.map((share) => html`<td class="number">${words.about(quantile(buckets, share))}</td>`)}
        </tr>`)}
        ${routes.length === 0 && html`<tr><td colspan="5" class="quiet">${words.none}</td></tr>`}
        </tbody>
      </table>
    </div>
    <p class="quiet small">${words.note}</p>
  </section>`;
}

function Queue({ times, end, seconds, now, then, settings }) {
  const words = texts.watch.queue;
  const waits = quantile(since(now.waits, then === now ? null : then.waits), 0.95);
  return html`<section class="card" aria-labelledby="queue">
    <h2 id="queue">${words.heading}</h2>
    <${LineChart} label=${words.label} end=${end} seconds=${seconds} shown=${number}
      times=${times.map((point) => point.time)}
      lines=${[{
        name: words.images,
        look: "ink",
        values: times.map(({ later }) => later?.queue.images ?? null),
      }]} />
    <p>${words.limits(
      number(now.queue.images),
      settings.valueOf("max_queue_images"),
      bytes(now.queue.bytes),
      settings.valueOf("max_queue_bytes"),
    )} ${waits && words.wait(texts.watch.latency.about(waits))}</p>
    <p class="quiet small">${words.process(bytes(now.memory), number(now.connections))}</p>
  </section>`;
}

function Batches({ now, then, span }) {
  const words = texts.watch.batches;
  const earlier = then === now ? null : then;
  const sizes = since(now.batches, earlier?.batches);
  const passes = countOf(sizes);
  const took = since(now.passes, earlier?.passes);
  const last = sizes?.counts.findLastIndex((count) => count > 0) ?? -1;
  const bins = sizes?.edges.slice(0, last + 1) ?? [];
  const most = Math.max(1, ...(sizes?.counts ?? []));
  return html`<section class="card" aria-labelledby="batches">
    <h2 id="batches">${words.heading}</h2>
    <p>${passes === 0
      ? words.none
      : words.sentence(earlier ? span : texts.watch.started, number(passes),
          number(sizes.sum / passes), time(took.sum / passes))}</p>
    ${passes > 0 && html`<${Bars} caption=${words.caption} heads=${[words.size, words.passes, words.share]}
      rows=${bins.map((edge, i) => ({
        label: words.bin(i ? sizes.edges[i - 1] + 1 : 1, edge),
        count: number(sizes.counts[i]),
        text: format.percent(sizes.counts[i] / passes),
        track: { end: most, bar: sizes.counts[i] },
      }))} />`}
  </section>`;
}

function Refusals({ now, then, span }) {
  const words = texts.watch.refusals;
  return html`<section class="card" aria-labelledby="refusals">
    <h2 id="refusals">${words.heading}</h2>
    <table>
      <thead><tr><th scope="col">${words.reason}</th><th scope="col" class="number">${span}</th>
        <th scope="col" class="number">${texts.watch.started}</th></tr></thead>
      <tbody>${Object.entries(now.refusals).map(([reason, count]) => {
        const fresh = count - (then.refusals[reason] ?? 0);
        return html`<tr key=${reason} class=${count ? "" : "quiet"}>
          <th scope="row">${words.reasons[reason] ?? reason}</th>
          <td class="number">${fresh ? html`<strong>${number(fresh)}</strong>` : 0}</td>
          <td class="number">${number(count)}</td>
        </tr>`;
      })}</tbody>
    </table>
  </section>`;
}
