// Images as arrays of pixels, on canvases.

const CIVIDIS = [
  [0, 32, 77], [0, 52, 110], [60, 77, 107], [96, 103, 112],
  [124, 123, 120], [155, 146, 119], [188, 170, 108], [223, 196, 85], [255, 234, 70],
]; // as service/codecs/png.py has it

const DEFECT = [255, 120, 0];

/** `image` is `{pixels, shape: [C, H, W]}`: uint8 in 0..255, or float32 in [0, 1]. */
export function paint(canvas, image) {
  put(canvas, imageData(image));
}

function put(canvas, data) {
  canvas.width = data.width;
  canvas.height = data.height;
  canvas.classList.toggle("pixelated", Math.max(data.width, data.height) <= 96);
  canvas.getContext("2d").putImageData(data, 0, 0);
}

/** The image as canvases have it, 4 bytes a pixel. */
export function imageData({ pixels, shape: [channels, height, width] }) {
  const data = new ImageData(width, height);
  const factor = pixels instanceof Uint8Array ? 1 : 255;
  const plane = width * height;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      data.data[4 * i + c] = pixels[(channels === 1 ? 0 : c) * plane + i] * factor;
    }
    data.data[4 * i + 3] = 255;
  }
  return data;
}

/**
 * A painter of an anomaly map over its image, for `Picture`. `strength` in [0, 2] scales how opaque
 * it is; at 1 it is what the service draws. Scaled maps, whose 1 is the 99.9 % quantile of clean
 * images, are tinted from 0.5 on; others show the absolute error.
 */
export function mapPainter(map, isScaled, strength) {
  return (canvas, image) => {
    const data = imageData(image);
    const plane = image.shape[1] * image.shape[2];
    const channels = map.pixels.length / plane;
    for (let i = 0; i < plane; i++) {
      let colour = DEFECT;
      let opacity;
      if (isScaled) {
        opacity = 0.5 * Math.min(1, Math.max(0, (map.pixels[i] - 0.5) / 0.5)) ** 2;
      } else {
        let squared = 0;
        for (let c = 0; c < channels; c++) squared += map.pixels[c * plane + i];
        const error = Math.sqrt(squared / channels);
        colour = CIVIDIS[Math.min(CIVIDIS.length - 1, Math.round(error * (CIVIDIS.length - 1)))];
        opacity = Math.min(1, 2 * error);
      }
      opacity = Math.min(1, opacity * strength);
      for (let c = 0; c < 3; c++) {
        data.data[4 * i + c] += (colour[c] - data.data[4 * i + c]) * opacity;
      }
    }
    put(canvas, data);
  };
}

/** An image as a PNG file. */
export function toPng(image) {
  const canvas = document.createElement("canvas");
  paint(canvas, image);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** A small copy of an image file for a table: `{pixels, shape}` in colour, or null. */
export async function thumbnailOf(blob, side = 64) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null; // a format that the browser does not know, such as TIFF
  }
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const plane = width * height;
  const pixels = new Uint8Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) pixels[c * plane + i] = data[4 * i + c];
  }
  return { pixels, shape: [3, height, width] };
}

/** A decoded image file on a canvas. */
export function paintBitmap(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.classList.toggle("pixelated", Math.max(bitmap.width, bitmap.height) <= 96);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}
