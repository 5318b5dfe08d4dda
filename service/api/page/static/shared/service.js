// Calls of the service, and the command lines that make the same calls.

import { texts } from "./texts.js";

const BUSY = [429, 503]; // after which a request may be sent again
const RETRIES = 3;
const MAX_WAIT_S = 5;

const meta = document.querySelector('meta[name="service-root"]');

/** The address of the service, with the slash at its end. */
export const root = new URL(meta.content, location.href).href;

/** An answer that is an error, in the service's own words. */
export class Problem extends Error {
  constructor(status, title, detail, requestId) {
    super(detail);
    this.status = status;
    this.title = title;
    this.requestId = requestId;
  }
}

let key = null; // in this tab's memory alone
let needsKey = () => {};
let versionSeen = () => {};

/** Use an API key from now on. */
export function setKey(text) {
  key = text;
}

/** Whether calls bear a key. */
export const hasKey = () => key !== null;

/** Have `listener` called when the service asks for a key, or refuses the one that it got. */
export function onKeyNeeded(listener) {
  needsKey = listener;
}

/** Have `listener` called with the version of the bundle of each answer. */
export function onVersion(listener) {
  versionSeen = listener;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const address = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = new URLSearchParams(given).toString();
  return root + path.replace(/^\//, "") + (text && `?${text}`);
};

/**
 * The response to one request. `body` is bytes, a Blob or, for JSON, a plain object.
 * Throws a `Problem` for an error, and one with status 0 if there is no response.
 */
export async function call(path, { method, query, body, type, accept, signal } = {}) {
  const headers = {};
  if (accept) headers.Accept = accept;
  if (key) headers.Authorization = `Bearer ${key}`;
  const isJson = body && Object.getPrototypeOf(body) === Object.prototype;
  if (isJson) headers["Content-Type"] = "application/json";
  else if (type) headers["Content-Type"] = type;
  const send = () => fetch(address(path, query), {
    method: method ?? (body ? "POST" : "GET"),
    headers,
    body: isJson ? JSON.stringify(body) : body,
    signal,
  });
  let response;
  try {
    response = await send();
    for (let i = 0; i < RETRIES && BUSY.includes(response.status); i++) {
      await pause(1000 * Math.min(MAX_WAIT_S, Number(response.headers.get("Retry-After")) || 1));
      response = await send();
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, texts.noAnswer.title, texts.noAnswer.detail(error.message));
  }
  const version = response.headers.get("X-Model-Version");
  if (version) versionSeen(version);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) needsKey(key !== null);
  throw new Problem(
    response.status,
    problem.title ?? response.statusText,
    problem.detail ?? "",
    problem.request_id,
  );
}

/** The answer as JSON. */
export const json = async (path, options) => (await call(path, options)).json();

const ARRAYS = { float32: Float32Array, uint8: Uint8Array };

/** The answer as an array: `{data, shape, response}`. */
export async function array(path, options) {
  const response = await call(path, { ...options, accept: "application/octet-stream" });
  const dtype = ARRAYS[response.headers.get("X-Tensor-Dtype")];
  const shape = response.headers.get("X-Tensor-Shape").split(",").map(Number);
  return { data: new dtype(await response.arrayBuffer()), shape, response };
}

/** The images of an array, (N, H, W) or (N, C, H, W), as `[{pixels, shape: [C, H, W]}]`. */
export function images({ data, shape }) {
  const each = shape.length === 3 ? [1, ...shape.slice(1)] : shape.slice(1);
  const size = each.reduce((product, side) => product * side, 1);
  return Array.from({ length: shape[0] }, (_, i) => ({
    pixels: data.subarray(i * size, (i + 1) * size),
    shape: each,
  }));
}

const quote = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/**
 * The curl line of a request. `file` is the name of the file that is its body, `data` its JSON body,
 * `out` the name of the file that the answer goes to.
 */
export function curlLine(path, { query, file, data, accept, out, method } = {}) {
  const parts = ["curl"];
  if (method) parts.push(`-X ${method}`);
  if (file) parts.push(`--data-binary ${/[^\w.-]/.test(file) ? quote(`@${file}`) : `@${file}`}`);
  if (data) parts.push(`-d ${quote(JSON.stringify(data))}`);
  if (accept) parts.push(`-H 'Accept: ${accept}'`);
  if (key) parts.push('-H "Authorization: Bearer $VAE_API_KEY"');
  parts.push(quote(address(path, query)));
  if (out) parts.push(`-o ${out}`);
  return parts.join(" ");
}

/** Python lines around `calls`, which use the name `client` and what `imports` name. */
export function pythonLines(calls, imports = []) {
  const keyed = key ? ', api_key=os.environ["VAE_API_KEY"]' : "";
  return [
    ...(key ? ["import os"] : []),
    ...imports,
    "from service.client import Client",
    "",
    `with Client("${root.replace(/\/$/, "")}"${keyed}) as client:`,
    ...calls.map((line) => `    ${line}`),
  ].join("\n");
}
