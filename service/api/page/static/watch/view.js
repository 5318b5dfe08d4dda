// The view of what the service is doing: /metrics every two seconds, drawn and put into words.

import { Choice, Section, isLasting, usePolling, useSettings } from "../shared/answers.js";
import { Bars, LineChart, clockTime } from "./charts.js";
import { durationsSince, points, rate, snapshot, windowStart, withSnapshot } from "./metrics.js";
import { AnomalyShares, PValues, readPValues } from "./p_values.js";
import { Recent } from "./recent.js";
import { call, curlLine } from "../shared/service.js";
import { rememberState } from "../shared/state.js";
import { bucketQuantile, countOf, judge, since, together } from "./statistics.js";
import { Summary, notable } from "./summary.js";
import { format, texts } from "../shared/texts.js";
import { Commands, Failure, html, useEffect, useState } from "../shared/ui.js";

const { bytes, count: number, percent, seconds: time, short } = format;

const EVERY_MS = 2000;
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
      return !isLasting(failure);
    }
  }, EVERY_MS, isPaused && kept.length > 0);

  const controls = html`<div class="row controls">
    <${Choice} label=${words.window} options=${WINDOWS.map((each) => [each, words.minutes(each)])}
      chosen=${minutes} onChoose=${setMinutes} />
    <button type="button" aria-pressed=${String(isPaused)} onClick=${() => setPaused(!isPaused)}>
      ${words.pause}</button>
    <span class="quiet small">${history.length > 0 && words.updated(clockTime(history.at(-1).time))}</span>
  </div>`;
  return html`<p class="lead">${words.lead}</p>
    ${controls}
    <${Failure} error=${error} />
    ${history.length > 0 && html`<${Dashboard} isDown=${error?.status === 0}
      ...${{ model, minutes, history, settings, isPaused, isWindow, setIsWindow }} />`}`;
}

function Dashboard(props) {
  const { model, minutes, history, settings, isPaused, isWindow, setIsWindow, isDown } = props;
  const words = texts.watch;
  const now = history.at(-1);
  const then = windowStart(history, 60 * minutes);
  const earlier = then === now ? null : then; // so that the first answer counts from the start
  const span = earlier ? words.last(time(Math.round(now.time - then.time))) : words.started;
  const alpha = settings.valueOf("alpha");
  const n = model?.calibration?.n;
  const small = (buckets) => buckets && readPValues(buckets, alpha ?? 0.01, n);
  const pValues = small(earlier ? since(now.pValues, then.pValues) : now.pValues);
  const share = (hits, total) => judge(hits, total, 0, alpha, alpha && n);
  const anomalies = share(now.anomalies - then.anomalies, now.scored - then.scored);
  const spans = [[words.started, share(now.anomalies, now.scored)]];
  if (earlier?.scored) spans.push([span, anomalies]);
  const recent = settings.valueOf("recent_images");
  const shared = { now, earlier, span, settings };
  const at = points(history, 60 * minutes);
  const chart = { at, times: at.map((point) => point.time), end: now.time, seconds: 60 * minutes };

  return html`
    <${Summary} codes=${notable({ ...shared, isDown, anomalies, pValues })} />
    ${recent !== undefined && html`<${Section} name="recent" title=${words.recent.heading}>
      ${recent > 0
        ? html`<${Recent} everyMs=${EVERY_MS} isPaused=${isPaused} alpha=${alpha}
            workers=${settings.valueOf("workers")} />`
        : html`<p class="quiet">${words.recent.off}</p>`}
    <//>`}
    <div class="columns even watch">
      <div class="stack">
        <${Section} name="anomalies" title=${words.anomalies.heading}>
          <${AnomalyShares} spans=${spans} alpha=${alpha} />
          <p class="quiet small">${words.anomalies.about(alpha)} ${n && words.range}</p>
        <//>
        ${pValues && html`<${Section} name="p-values" title=${words.pValues.heading}>
          <p class="quiet small">${words.pValues.about}</p>
          <${Choice} label=${words.pValues.over} options=${[[false, words.started], [true, span]]}
            chosen=${isWindow} onChoose=${setIsWindow} />
          <${PValues} reading=${isWindow ? pValues : small(now.pValues)} />
        <//>`}
        <${Refusals} ...${shared} />
      </div>
      <div class="stack">
        <${Requests} chart=${chart} />
        <${Latency} chart=${chart} ...${shared} />
        <${Batches} ...${shared} />
      </div>
      <${Queue} chart=${chart} ...${shared} />
      <div class="card"><${Commands} curl=${[
        curlLine("/metrics"),
        recent > 0 && curlLine("/recent"),
      ].filter(Boolean).join("\n")} /></div>
    </div>`;
}

function Requests({ chart }) {
  const words = texts.watch.requests;
  const names = new Set([...Object.keys(STATUSES), ...Object.keys(chart.at.at(-1).later.requests)]);
  return html`<${Section} name="requests" title=${words.heading}>
    <${LineChart} ...${chart} label=${words.label} shown=${short}
      lines=${[...names].sort().map((name) => ({
        name: words.statuses[name] ?? name,
        look: STATUSES[name] ?? "quiet dotted",
        values: chart.at.map((point) => rate(point, ({ requests }) => requests[name])),
      }))} />
    <p class="quiet small">${words.about}</p>
  <//>`;
}

function Latency({ chart, now, earlier, span }) {
  const words = texts.watch.latency;
  const each = chart.at.map((point) =>
    point.earlier ? together(Object.values(durationsSince(point.later, point.earlier))) : null,
  );
  const routes = Object.entries(durationsSince(now, earlier));
  return html`<${Section} name="latency" title=${words.heading}>
    <${LineChart} ...${chart} label=${words.label} shown=${time}
      lines=${SHARES.map((share, i) => ({
        name: words.share(share),
        look: LOOKS[i],
        values: each.map((buckets) => bucketQuantile(buckets, share)?.value ?? null),
      }))} />
    <div class="scroll" tabindex="0" role="region" aria-label=${words.routes}>
      <table class="routes">
        <caption>${words.caption(span)}</caption>
        <thead><tr><th scope="col">${words.route}</th>
          ${[words.requests, ...SHARES.map(words.share)].map(
            (name) => html`<th scope="col" class="number">${name}</th>`)}
        </tr></thead>
        <tbody>${routes.map(([route, buckets]) => html`<tr key=${route}>
          <th scope="row">${route}</th><td class="number">${number(countOf(buckets))}</td>
          ${SHARES.map((share) => html`<td class="number">${words.about(bucketQuantile(buckets, share), time)}</td>`)}
        </tr>`)}
        ${routes.length === 0 && html`<tr><td colspan="5" class="quiet">${words.none}</td></tr>`}
        </tbody>
      </table>
    </div>
    <p class="quiet small">${words.note}</p>
  <//>`;
}

function Queue({ chart, now, earlier, settings }) {
  const words = texts.watch.queue;
  const limit = (name, shown) => {
    const value = settings.valueOf(name);
    return value && shown(value);
  };
  const waits = bucketQuantile(since(now.waits, earlier?.waits), 0.95);
  return html`<${Section} name="queue" title=${words.heading}>
    <${LineChart} ...${chart} label=${words.label} shown=${short} lines=${[{
      name: words.images,
      look: "ink",
      values: chart.at.map(({ later }) => later?.queue.images ?? null),
    }]} />
    <p>${words.limits(
      number(now.queue.images),
      limit("max_queue_images", number),
      bytes(now.queue.bytes),
      limit("max_queue_bytes", bytes),
    )} ${waits && words.wait(texts.watch.latency.about(waits, time))}</p>
    <p class="quiet small">${words.process(bytes(now.memory), number(now.connections))}</p>
  <//>`;
}

function Batches({ now, earlier, span }) {
  const words = texts.watch.batches;
  const sizes = since(now.batches, earlier?.batches);
  const passes = countOf(sizes);
  if (!passes) return html`<${Section} name="batches" title=${words.heading}><p>${words.none}</p><//>`;
  const took = since(now.passes, earlier?.passes).sum / passes;
  const bins = sizes.counts.map((count, i) => [count, sizes.edges[i - 1] + 1 || 1, sizes.edges[i]]);
  const isUsed = ([count]) => count > 0;
  const used = bins.slice(bins.findIndex(isUsed), bins.findLastIndex(isUsed) + 1);
  const end = Math.max(...sizes.counts);
  return html`<${Section} name="batches" title=${words.heading}>
    <p>${words.sentence(span, number(passes), short(sizes.sum / passes), time(took))}</p>
    <${Bars} caption=${words.caption} heads=${[words.size, words.passes, words.share]}
      rows=${used.map(([count, low, high]) => ({
        label: words.bin(low, high),
        count: number(count),
        text: percent(count / passes),
        track: { end, bar: count },
      }))} />
  <//>`;
}

function Refusals({ now, earlier, span }) {
  const words = texts.watch.refusals;
  const counted = Object.entries(now.refusals).filter(([, count]) => count);
  return html`<${Section} name="refusals" title=${words.heading}>
    ${counted.length === 0 ? html`<p class="quiet">${words.none}</p>` : html`<table>
      <thead><tr><th scope="col">${words.reason}</th>
        ${[earlier && span, texts.watch.started].filter(Boolean).map(
          (name) => html`<th scope="col" class="number">${name}</th>`)}
      </tr></thead>
      <tbody>${counted.map(([reason, count]) => html`<tr key=${reason}>
        <th scope="row">${words.reasons[reason] ?? reason}</th>
        ${earlier && html`<td class="number">${number(count - (earlier.refusals[reason] ?? 0))}</td>`}
        <td class="number">${number(count)}</td>
      </tr>`)}</tbody>
    </table>`}
  <//>`;
}
