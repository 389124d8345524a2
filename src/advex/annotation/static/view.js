// Pictures on the screen: pixels stay squares, and both pictures keep one scale and one place.

const CAPTION = 32; // pixels above a picture
const MARGINS = 52; // between tiles, answers, tools and the edge

// Show the tiles of a picture as large as there is room for, and `zoom` steps more. Returns the scale in words.
export function fit(tiles, picture, zoom) {
  const frames = [...tiles.querySelectorAll(".tile:not([hidden]) .frame")];
  const { naturalWidth: wide, naturalHeight: high } = picture;
  const { columns, width, height, room } = arrangement(tiles, frames.length, wide, high);
  tiles.style.gridTemplateColumns = `repeat(${columns}, auto)`;
  const base = steps(room);
  const scale = zoom === 0 ? base : Math.max(Math.min(base, 1), Math.floor(base) + zoom * step(base));
  for (const frame of frames) {
    const shown = frame.firstElementChild;
    shown.style.width = `${wide * scale}px`;
    shown.style.height = `${high * scale}px`;
    shown.classList.toggle("crisp", scale >= 1);
    frame.style.maxWidth = `${width}px`;
    frame.style.maxHeight = `${height}px`;
    // What can be scrolled can be reached by keyboard.
    if (wide * scale > width + 1 || high * scale > height + 1) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
    frame.onscroll = () => together(frames, frame);
  }
  return `×${scale >= 1 ? scale : scale.toFixed(2)}`;
}

// Beside each other or below, whatever makes the pictures largest. width, height: room for one of them.
function arrangement(tiles, count, wide, high) {
  const gap = parseFloat(getComputedStyle(tiles).columnGap) || 0;
  const above = tiles.getBoundingClientRect().top + scrollY;
  const whole = { width: tiles.clientWidth, height: innerHeight - above - reserved() };
  let best = { room: 0 };
  for (let columns = count; columns >= 1; columns--) {
    const rows = Math.ceil(count / columns);
    const width = (whole.width - gap * (columns - 1)) / columns - 2;
    const height = Math.max(110, (whole.height - gap * (rows - 1)) / rows - CAPTION);
    const room = Math.min(width / wide, height / high);
    if (steps(room) > steps(best.room)) best = { columns, width, height, room };
  }
  return best;
}

// Whole numbers, so that every pixel has one size; a picture that is too large shrinks smoothly.
function steps(room) {
  return room >= 1 ? Math.floor(room) : room;
}

function step(base) {
  return Math.max(1, Math.round(base / 4));
}

function reserved() {
  const below = ["answers", "tools"].map((name) => document.querySelector(`.${name}`).offsetHeight);
  return below.reduce((sum, each) => sum + each, 0) + MARGINS;
}

function together(frames, moved) {
  for (const frame of frames) {
    if (frame === moved) continue;
    if (frame.scrollLeft !== moved.scrollLeft) frame.scrollLeft = moved.scrollLeft;
    if (frame.scrollTop !== moved.scrollTop) frame.scrollTop = moved.scrollTop;
  }
}

// The difference of the two pictures around grey, as strong as it can be shown. Returns its gain in words.
export function draw(canvas, { original, changed }) {
  const { naturalWidth: width, naturalHeight: height } = changed;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = (image) => {
    context.clearRect(0, 0, width, height);
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, width, height);
  };
  const [before, after] = [pixels(original).data, pixels(changed)];
  let largest = 1;
  for (let i = 0; i < before.length; i++) {
    if (i % 4 !== 3) largest = Math.max(largest, Math.abs(after.data[i] - before[i]));
  }
  const gain = 127 / largest;
  for (let i = 0; i < before.length; i++) {
    if (i % 4 !== 3) after.data[i] = 128 + gain * (after.data[i] - before[i]);
  }
  context.putImageData(after, 0, 0);
  return `×${gain < 10 ? gain.toFixed(1) : Math.round(gain)}`;
}
