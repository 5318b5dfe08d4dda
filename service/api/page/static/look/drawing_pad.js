// A pad to draw on by mouse, touch, pen or keyboard.

import { texts } from "../shared/texts.js";
import { html, useEffect, useId, useRef, useState } from "../shared/ui.js";

const SIDE = 280; // of the longer side on the canvas
const STROKE = 0.075; // width of a line, as a share of it: 2.1 of 28 pixels
const STEP = 1 / 28; // by the keyboard

/**
 * `shape` is the network's, [1, H, W]. `onDraw` gets the drawing as uint8 pixels of that shape after
 * each movement, and the time at which it was made. `onClear` is called when the pad is cleared.
 */
export function DrawingPad({ shape: [, height, width], onDraw, onClear }) {
  const canvas = useRef(null);
  const hint = useId();
  const pen = useRef({ down: false, x: 0.5, y: 0.5, keyDown: false, frame: 0 });
  const [cursor, setCursor] = useState(null);
  const scale = SIDE / Math.max(height, width);
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };

  const clear = () => {
    const context = canvas.current.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, size.width, size.height);
  };
  useEffect(clear, []);

  const tell = () => {
    if (pen.current.frame) return;
    const made = performance.now();
    pen.current.frame = requestAnimationFrame(() => {
      pen.current.frame = 0;
      onDraw(read(canvas.current, width, height), made);
    });
  };
  const lineTo = (x, y) => {
    const context = canvas.current.getContext("2d");
    context.strokeStyle = "#fff";
    context.lineWidth = STROKE * SIDE;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(pen.current.x * size.width, pen.current.y * size.height);
    context.lineTo(x * size.width, y * size.height);
    context.stroke();
    Object.assign(pen.current, { x, y });
    tell();
  };
  const position = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const start = (event) => {
    if (event.button) return;
    event.preventDefault();
    canvas.current.focus();
    canvas.current.setPointerCapture(event.pointerId);
    const [x, y] = position(event);
    Object.assign(pen.current, { down: true, x, y });
    setCursor(null);
    lineTo(x, y);
  };
  const move = (event) => {
    if (!pen.current.down) return;
    // A browser joins the movements of a frame into one event; a quick curve needs them all.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) lineTo(...position(each));
  };
  const stop = () => {
    pen.current.down = false;
  };
  const keys = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1],
  };
  const onKeyDown = (event) => {
    const own = pen.current;
    if (event.key === " ") {
      event.preventDefault();
      own.keyDown = !own.keyDown;
      if (own.keyDown) lineTo(own.x, own.y);
      setCursor({ x: own.x, y: own.y, down: own.keyDown });
    } else if (keys[event.key]) {
      event.preventDefault();
      const [dx, dy] = keys[event.key];
      const x = Math.min(1, Math.max(0, own.x + dx * STEP));
      const y = Math.min(1, Math.max(0, own.y + dy * STEP));
      if (own.keyDown) lineTo(x, y);
      Object.assign(own, { x, y });
      setCursor({ x, y, down: own.keyDown });
    }
  };
  const clearAll = () => {
    clear();
    pen.current.keyDown = false;
    setCursor(null);
    onClear();
  };

  return html`<div class="pad">
    <div class="surface" style=${{ aspectRatio: `${width} / ${height}` }}>
      <canvas ref=${canvas} ...${size} tabindex="0" role="application" aria-label=${texts.look.pad}
        aria-describedby=${hint} onPointerDown=${start} onPointerMove=${move} onPointerUp=${stop}
        onPointerCancel=${stop} onKeyDown=${onKeyDown} />
      <div class="guide" aria-hidden="true" />
      ${cursor && html`<div class=${`cursor ${cursor.down ? "down" : ""}`} aria-hidden="true"
        style=${{ left: `${100 * cursor.x}%`, top: `${100 * cursor.y}%` }} />`}
    </div>
    <p class="visually-hidden" aria-live="polite">
      ${cursor && (cursor.down ? texts.look.penDown : texts.look.penUp)}</p>
    <div class="row">
      <button type="button" onClick=${clearAll}>${texts.look.clear}</button>
      <span id=${hint} class="quiet small">${texts.look.padHint}</span>
    </div>
  </div>`;
}

/** The drawing at the network's size, averaged: (H·W,) uint8. */
function read(canvas, width, height) {
  const small = new OffscreenCanvas(width, height);
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, i) => data[4 * i]);
}
