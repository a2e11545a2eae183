// Outlines on an image. Coordinates are pixels of the image: its top left corner is (0, 0), the first pixel's centre (0.5, 0.5).
const NEAR = 8; // of the screen

const MOST_CORNERS = 400;
const WAYS = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]; // clockwise

// The pixels of the largest part, as a mask; its first pixel is the topmost one.
function largest(mask, wide, high) {
  const seen = new Uint8Array(wide * high);
  let best = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || seen[start]) continue;
    const part = [start];
    seen[start] = 1;
    for (let i = 0; i < part.length; i++) {
      const at = part[i];
      const x = at % wide;
      for (const next of [x > 0 ? at - 1 : -1, x < wide - 1 ? at + 1 : -1, at - wide, at + wide]) {
        if (next < 0 || next >= mask.length || !mask[next] || seen[next]) continue;
        seen[next] = 1;
        part.push(next);
      }
    }
    if (part.length > best.length) best = part;
  }
  const only = new Uint8Array(wide * high);
  best.forEach((at) => (only[at] = 1));
  return { only, first: best.length > 3 ? best[0] : -1 };
}

// The border of a mask's only part, clockwise through the centres of its pixels (Moore's neighbours).
function border({ only, first }, wide, high) {
  if (first < 0) return [];
  const found = [];
  let [x, y, from, begun] = [first % wide, Math.floor(first / wide), 4, -1];
  for (let steps = 0; steps < 2 * wide * high; steps++) {
    let way = -1;
    for (let turn = 1; turn <= 8 && way < 0; turn++) {
      const [dx, dy] = WAYS[(from + turn) % 8];
      if (x + dx >= 0 && x + dx < wide && y + dy >= 0 && y + dy < high && only[(y + dy) * wide + x + dx]) way = (from + turn) % 8;
    }
    if (way < 0 || (y * wide + x === first && way === begun)) break;
    if (begun < 0) begun = way;
    found.push([x + 0.5, y + 0.5]);
    [x, y, from] = [x + WAYS[way][0], y + WAYS[way][1], (way + 4) % 8];
  }
  return found;
}

// Fewer corners, none of them farther than `off` from the line that stands for it (Douglas and Peucker).
function thinned(line, off) {
  const kept = new Uint8Array(line.length);
  const open = [[0, line.length - 1]];
  kept[0] = kept[line.length - 1] = 1;
  while (open.length) {
    const [a, b] = open.pop();
    const [[x, y], [u, v]] = [line[a], line[b]];
    const length = Math.hypot(u - x, v - y);
    let [worst, at] = [off, -1];
    for (let i = a + 1; i < b; i++) {
      const [p, q] = line[i];
      const away = length ? Math.abs((u - x) * (y - q) - (x - p) * (v - y)) / length : Math.hypot(p - x, q - y);
      if (away > worst) [worst, at] = [away, i];
    }
    if (at < 0) continue;
    kept[at] = 1;
    open.push([a, at], [at, b]);
  }
  return line.filter((_, i) => kept[i]);
}

export default {
  props: { job: String, view: String, places: Array, proposals: Array, names: Array, reasons: Array },
  emits: ["save"],
  template: `
    <div class="columns label">
      <figure class="film result">
        <svg ref="svg" :viewBox="'0 0 ' + place.columns + ' ' + place.rows" :class="['drawing', tool]" role="img" :aria-label="words"
             @pointerdown="down" @pointermove="moved" @pointerup="up" @dblclick.prevent="close">
          <image :href="url" x="0" y="0" :width="place.columns" :height="place.rows" preserveAspectRatio="none"></image>
          <g v-for="one in here" :key="one.key">
            <polygon :points="points(one.outline)" :class="['region', { mine: !one.uid, chosen: one.key === chosen }]" @pointerdown="begin($event, one, -1)"></polygon>
            <template v-if="one.key === chosen"><circle v-for="(corner, i) in one.outline" :cx="corner[0]" :cy="corner[1]" :r="4 * scale" class="corner" @pointerdown="begin($event, one, i)"></circle></template>
          </g>
          <polyline v-if="drawing.length && painting" :points="points(drawing)" class="painted" :class="tool" :stroke-width="2 * radius"></polyline>
          <polyline v-else-if="drawing.length" :points="points(tool === 'box' ? corners(drawing[0], drawing[1]).concat([drawing[0]]) : drawing)" class="drawn"></polyline>
        </svg>
        <div class="strip" role="group" aria-label="Tools">
          <button v-for="(title, name) in tools" type="button" :aria-pressed="String(tool === name)" @click="take(name)">{{ title }}</button>
          <label v-if="painting">Width <input type="range" min="1" :max="Math.ceil(place.columns / 10)" v-model.number="radius" :aria-valuetext="2 * radius + ' pixels'"></label>
          <template v-if="places.length > 1">
            <button type="button" :disabled="at === 0" @click="at--">‹ image</button><output>{{ at + 1 }} / {{ places.length }}</output>
            <button type="button" :disabled="at === places.length - 1" @click="at++">image ›</button></template>
        </div>
        <p class="soft">{{ help }}</p>
      </figure>
      <section class="result" aria-label="Regions">
        <h2>Regions</h2>
        <p v-if="!regions.length" class="soft">None. What the model proposed and is gone counts as rejected.</p>
        <ul class="regions">
          <li v-for="one in regions" :key="one.key">
            <button type="button" class="act" :aria-pressed="String(one.key === chosen)" @click="choose(one)" @keydown="keyed($event, one)">{{ one.name }}</button>
            <span class="soft">{{ one.uid ? (one.changed ? 'moved' : 'proposed') : 'yours' }}</span>
            <label v-if="!one.uid" class="what"><span class="hide">Finding of {{ one.name }}</span>
              <select v-model="one.finding"><option value="">something else</option><option v-for="name in names" :value="name">{{ name }}</option></select></label>
            <span v-else class="what">{{ one.finding }}</span>
            <button type="button" class="act danger" :aria-label="'Remove ' + one.name" @click="remove(one)">Remove</button>
          </li>
        </ul>
        <div class="strip">
          <button type="button" class="act" @click="middle">Add a box in the middle</button>
          <button type="button" class="act" @click="again">As the model proposed</button>
        </div>
        <div class="fields"><div><label for="label-reason">Reason</label>
          <select id="label-reason" v-model="reason"><option value="">none</option><option v-for="one in reasons" :value="one">{{ one }}</option></select></div></div>
        <p class="soft">{{ outcome }}</p>
        <div class="strip"><button type="button" class="act main" @click="save">Save</button></div>
      </section>
    </div>`,
  data() {
    return {
      regions: [], at: 0, tool: "choose", chosen: 0, drawing: [], reason: "", scale: 1, radius: 4,
      tools: { choose: "Choose and move", box: "Box", polygon: "Polygon", brush: "Brush", eraser: "Eraser" },
    };
  },
  created() {
    this.next = 1;
    this.held = null;
    this.radius = Math.max(2, Math.round(this.place.columns / 40));
    this.again();
  },
  mounted() {
    this.watching = new ResizeObserver(() => (this.scale = this.place.columns / Math.max(1, this.$refs.svg.clientWidth)));
    this.watching.observe(this.$refs.svg);
    window.addEventListener("keydown", this.dropped);
  },
  beforeUnmount() {
    this.watching.disconnect();
    window.removeEventListener("keydown", this.dropped);
  },
  computed: {
    place() {
      return this.places[this.at];
    },
    url() {
      return `/pictures/${this.job}/slices/${this.at}.png?view=${this.view}`;
    },
    here() {
      return this.regions.filter((one) => one.image === this.place.image && one.frame === this.place.frame);
    },
    words() {
      return `Image ${this.at + 1} of ${this.places.length} with ${this.here.length} ${this.here.length === 1 ? "region" : "regions"}`;
    },
    help() {
      if (this.tool === "box") return "Press at one corner and let go at the other.";
      if (this.tool === "brush") return "Paint over the image: onto the chosen region, or a new one where none is chosen.";
      if (this.tool === "eraser") return "Take away from the chosen region. Its largest part stays.";
      if (this.tool === "polygon") return "Click corner after corner; a click at the first one, or a double click, closes it; Escape drops it.";
      return "Choose a region, then drag it or its corners. By keyboard: the arrows move the chosen region, with Shift they change its size, with Ctrl by ten pixels; Delete removes it.";
    },
    painting() {
      return this.tool === "brush" || this.tool === "eraser";
    },
    outcome() {
      const gone = new Set(this.proposals.map((one) => one.uid).filter((uid) => !this.regions.some((one) => one.uid === uid)));
      const moved = new Set(this.regions.filter((one) => one.uid && one.changed && !gone.has(one.uid)).map((one) => one.uid));
      const mine = this.regions.filter((one) => !one.uid).length;
      const said = [];
      if (gone.size) said.push(`${gone.size} rejected`);
      if (moved.size) said.push(`${moved.size} modified`);
      if (mine) said.push(`${mine} missed by the model`);
      return said.length ? `Save says: ${said.join(", ")}.` : this.proposals.length ? "Save says: accepted as proposed." : "Nothing is drawn yet.";
    },
  },
  methods: {
    again() {
      this.regions = this.proposals.map((one) => this.region(one.uid, one.finding, one.image, one.frame, one.outline));
      this.chosen = 0;
    },
    region(uid, finding, image, frame, outline) {
      const key = this.next++;
      return { key, name: `Region ${key}`, uid, finding, image, frame, outline: outline.map((corner) => [...corner]), painted: null, changed: false };
    },
    points(outline) {
      return outline.map((corner) => corner.join(",")).join(" ");
    },
    corners([x, y], [u, v]) {
      return [[x, y], [u, y], [u, v], [x, v]];
    },
    take(name) {
      this.tool = name;
      this.drawing = [];
    },
    dropped(event) {
      if (event.key === "Escape") this.drawing = [];
    },
    choose(one) {
      this.chosen = one.key;
      this.at = this.places.findIndex((place) => place.image === one.image && place.frame === one.frame);
    },
    where(event) {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.$refs.svg.getScreenCTM().inverse());
      return this.inside([point.x, point.y]);
    },
    inside([x, y]) {
      const within = (value, most) => Math.round(10 * Math.min(most, Math.max(0, value))) / 10;
      return [within(x, this.place.columns), within(y, this.place.rows)];
    },
    begin(event, one, corner) {
      if (this.tool !== "choose") return;
      this.chosen = one.key;
      this.held = { one, corner, from: this.where(event), outline: one.outline.map((each) => [...each]) };
      this.$refs.svg.setPointerCapture(event.pointerId);
      event.stopPropagation();
    },
    down(event) {
      const at = this.where(event);
      if (this.tool === "box" || this.painting) {
        this.drawing = [at, [at[0] + 0.01, at[1]]]; // a line without a length would not be painted
        this.$refs.svg.setPointerCapture(event.pointerId);
      } else if (this.tool === "polygon") {
        const [x, y] = this.drawing[0] || [Infinity, Infinity];
        if (this.drawing.length > 2 && Math.hypot(at[0] - x, at[1] - y) < NEAR * this.scale) this.close();
        else this.drawing.push(at);
      } else this.chosen = 0;
    },
    moved(event) {
      if (this.tool === "box" && this.drawing.length) this.drawing = [this.drawing[0], this.where(event)];
      if (this.painting && this.drawing.length) this.drawing.push(this.where(event));
      if (!this.held) return;
      const at = this.where(event);
      const { one, corner, from, outline } = this.held;
      if (corner >= 0) one.outline = one.outline.map((each, i) => (i === corner ? at : each));
      else this.shift(one, outline, at[0] - from[0], at[1] - from[1]);
      one.changed = true;
    },
    up() {
      this.held = null;
      if (this.painting && this.drawing.length) return this.paint(this.drawing.splice(0));
      if (this.tool !== "box" || !this.drawing.length) return;
      const [from, to] = this.drawing;
      this.drawing = [];
      if (Math.abs(from[0] - to[0]) >= 2 && Math.abs(from[1] - to[1]) >= 2) this.add(this.corners(from, to));
    },
    close() {
      const outline = this.drawing.filter((corner, i, all) => !i || Math.hypot(corner[0] - all[i - 1][0], corner[1] - all[i - 1][1]) > 0.5);
      this.drawing = [];
      if (this.tool === "polygon" && outline.length > 2) this.add(outline);
    },
    paint(stroke) {
      const one = this.here.find((other) => other.key === this.chosen);
      if (!one && this.tool === "eraser") return;
      const { columns, rows } = this.place;
      const sheet = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
      const pen = sheet.getContext("2d", { willReadFrequently: true });
      const along = (corners) => {
        pen.beginPath();
        corners.forEach(([x, y]) => pen.lineTo(x, y));
      };
      if (one && one.painted && one.painted.outline === one.outline) pen.drawImage(one.painted.sheet, 0, 0);
      else if (one) {
        along(one.outline);
        pen.closePath();
        pen.lineWidth = 0.2; // a pixel whose centre lies on the line belongs to it
        pen.fill();
        pen.stroke();
      }
      pen.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
      Object.assign(pen, { lineWidth: 2 * this.radius, lineCap: "round", lineJoin: "round" });
      along(stroke);
      pen.stroke();
      const seen = pen.getImageData(0, 0, columns, rows);
      const part = largest(seen.data.filter((_, i) => i % 4 === 3).map((alpha) => (alpha > 127 ? 1 : 0)), columns, rows);
      const line = border(part, columns, rows);
      if (line.length < 4) return one && this.remove(one);
      const half = Math.floor(line.length / 2); // a closed line has no ends of its own
      let outline = line;
      for (let off = 0.8; off < 50 && (outline === line || outline.length > MOST_CORNERS); off *= 1.5)
        outline = [...thinned(line.slice(0, half + 1), off).slice(0, -1), ...thinned([...line.slice(half), line[0]], off).slice(0, -1)];
      if (outline.length < 3) return;
      part.only.forEach((on, i) => (seen.data[4 * i + 3] = 255 * on));
      pen.putImageData(seen, 0, 0);
      const region = one || this.add(outline, this.tool);
      Object.assign(region, { outline, painted: { sheet, outline }, changed: true }); // the next stroke goes on from the pixels: thinned again and again an outline shrinks
    },
    add(outline, then = "choose") {
      const called = this.proposals[0] ? this.proposals[0].finding : "";
      const made = this.region("", called, this.place.image, this.place.frame, outline);
      this.regions.push(made);
      this.chosen = made.key;
      this.tool = then;
      return this.regions.at(-1);
    },
    middle() {
      const { columns, rows } = this.place;
      this.add(this.corners(this.inside([0.375 * columns, 0.375 * rows]), this.inside([0.625 * columns, 0.625 * rows])));
    },
    remove(one) {
      this.regions = this.regions.filter((other) => other !== one);
    },
    shift(one, outline, dx, dy) {
      const xs = outline.map((corner) => corner[0]);
      const ys = outline.map((corner) => corner[1]);
      const x = Math.min(this.place.columns - Math.max(...xs), Math.max(-Math.min(...xs), dx));
      const y = Math.min(this.place.rows - Math.max(...ys), Math.max(-Math.min(...ys), dy));
      one.outline = outline.map((corner) => this.inside([corner[0] + x, corner[1] + y]));
    },
    keyed(event, one) {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Delete") return this.remove(one);
      if (!way) return;
      event.preventDefault();
      this.choose(one);
      const [dx, dy] = way.map((step) => step * (event.ctrlKey ? 10 : 1));
      one.changed = true;
      if (!event.shiftKey) return this.shift(one, one.outline, dx, dy);
      const xs = one.outline.map((corner) => corner[0]);
      const ys = one.outline.map((corner) => corner[1]);
      const [left, top] = [Math.min(...xs), Math.min(...ys)];
      const [wide, high] = [Math.max(...xs) - left, Math.max(...ys) - top];
      if (wide + dx < 2 || high + dy < 2) return;
      one.outline = one.outline.map(([x, y]) => this.inside([left + ((x - left) * (wide + dx)) / wide, top + ((y - top) * (high + dy)) / high]));
    },
    save() {
      const regions = this.regions.map(({ uid, finding, image, frame, outline }) => ({ uid, finding, image, frame, outline }));
      this.$emit("save", { regions, reason: this.reason });
    },
  },
};
