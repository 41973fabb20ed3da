"use strict";
// Maps of a memory: arrays with named axes, and the planes of them that are drawn.

const WORDS = {
  step: "step that reads",
  past: "step that was written",
  chain: "chain",
  read: "read",
  layer: "layer",
  head: "head",
  memory: "memory",
  block: "block",
  slot: "slot",
  row: "what a slot reads",
  inner_step: "inner step",
  query: "query",
  key: "key",
};
const MEAN = "mean";

/** A map of the data with its cells as numbers, axes of one position left out. */
function unpack(map) {
  const { data: text, scale: unit, shape: full } = map.values;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const multiples = new Int16Array(bytes.buffer);
  const kept = full.map((_, i) => i).filter((i) => i === 0 || i === full.length - 1 || full[i] > 1);
  const strides = full.map((_, i) => full.slice(i + 1).reduce((a, b) => a * b, 1));
  const axes = kept.map((i) => map.axes[i]),
    shape = kept.map((i) => full[i]),
    jump = kept.map((i) => strides[i]);
  const cell = (at) => unit * multiples[at.reduce((sum, place, i) => sum + place * jump[i], 0)];
  return { axes, shape, cell, meaning: map.meaning, labels: map.labels };
}

/** Rows [first axis][last axis] of a map, with `chosen` positions or means on the axes between. */
function plane(map, chosen) {
  const between = map.axes.slice(1, -1);
  let places = [[]];
  between.forEach((axis, i) => {
    const size = map.shape[i + 1],
      at = chosen[axis];
    const wanted = at === MEAN ? Array.from({ length: size }, (_, k) => k) : [Number(at)];
    places = places.flatMap((place) => wanted.map((k) => [...place, k]));
  });
  const [rows, columns] = [map.shape[0], map.shape.at(-1)];
  return Array.from({ length: rows }, (_, r) =>
    Array.from(
      { length: columns },
      (_, c) => places.reduce((sum, place) => sum + map.cell([r, ...place, c]), 0) / places.length,
    ),
  );
}

const positions = (map, axis) =>
  map.labels[axis] ??
  Array.from({ length: map.shape[map.axes.indexOf(axis)] }, (_, i) =>
    axis === "past" || axis === "step" ? String(i) : `${WORDS[axis] ?? axis} ${i + 1}`,
  );
