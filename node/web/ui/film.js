// A result's slices with its segments over them. Image and overlays of a slice are drawn in one go: never one slice's mask on another.
const KEPT = 400;
const AHEAD = 2;

export default {
  props: { job: String, view: String, label: String, base: String },
  template: `
    <figure class="film">
      <p v-if="problem" class="soft" role="status">{{ problem }}</p>
      <p v-else-if="!film" class="soft" role="status">Opening the pictures …</p>
      <template v-else>
        <div class="stage" @wheel.prevent="step($event.deltaY > 0 ? 1 : -1)">
          <canvas ref="canvas" role="img" :aria-label="words" :data-slice="drawn" :data-layers="layers"></canvas>
          <template v-if="!captures">
            <span v-for="(letter, i) in film.edges" :class="['edge', ['left', 'right', 'above', 'below'][i]]" aria-hidden="true">{{ letter }}</span>
          </template>
        </div>
        <div class="strip">
          <button type="button" @click="key(-1)" :disabled="!keys.length" title="Previous key slice" aria-label="Previous key slice">‹ key</button>
          <label class="grow"><span class="hide">{{ captures ? 'Picture' : 'Slice' }}</span>
            <input type="range" min="0" :max="count - 1" step="1" :value="at" :disabled="count < 2" :aria-valuetext="words" @input="at = Number($event.target.value)">
          </label>
          <button type="button" @click="key(1)" :disabled="!keys.length" title="Next key slice" aria-label="Next key slice">key ›</button>
          <output class="count">{{ at + 1 }} / {{ count }}</output>
        </div>
        <div class="strip">
          <label v-if="film.captures.length"><span>Show</span>
            <select :value="captures ? 'captures' : 'slices'" @change="turn($event.target.value === 'captures')">
              <option value="slices">Slices</option><option value="captures">Heat map</option>
            </select>
          </label>
          <a v-if="captures" :href="url('/captures/' + at + '.png')" target="_blank" rel="noopener">Full size</a>
          <template v-else>
            <label v-if="Object.keys(film.windows).length"><span>Window</span>
              <select v-model="window"><option v-for="(title, name) in film.windows" :value="name">{{ title }}</option></select>
            </label>
            <label v-if="film.segments.length" class="grow"><span>Overlay</span>
              <input type="range" min="0" max="100" step="5" v-model.number="opacity" :aria-valuetext="opacity + ' percent'">
            </label>
          </template>
        </div>
        <div v-if="!captures && film.segments.length" class="strip segments" role="group" aria-label="Segments">
          <label v-for="one in film.segments"><input type="checkbox" :checked="!hidden[one.number]" @change="hidden = {...hidden, [one.number]: !$event.target.checked}">
            <span class="swatch" :style="{ background: one.color }" aria-hidden="true"></span>{{ one.label }}
            <span class="soft">{{ one.slices.length }} {{ one.slices.length === 1 ? 'slice' : 'slices' }}</span>
          </label>
        </div>
      </template>
    </figure>`,
  data() {
    return { film: null, problem: "", at: 0, window: "", opacity: 60, hidden: {}, captures: false, drawn: -1, layers: "" };
  },
  created() {
    this.images = new Map();
    this.ticket = 0;
  },
  async mounted() {
    try {
      const answer = await fetch(this.url(""));
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.detail);
      this.window = Object.keys(said.windows)[0] || "";
      this.at = said.first;
      this.film = said;
    } catch (why) {
      this.problem = why.message || "The pictures can't be opened; load the page again.";
    }
  },
  computed: {
    count() {
      return this.captures ? this.film.captures.length : this.film.slices;
    },
    keys() {
      return this.captures ? this.film.captures.map((_, i) => i) : this.film.keys;
    },
    words() {
      const shown = this.film.segments.filter((one) => !this.hidden[one.number] && one.slices.includes(this.at)).map((one) => one.label);
      if (this.captures) return `${this.label}: heat map, picture ${this.at + 1} of ${this.count}`;
      return `${this.label}: slice ${this.at + 1} of ${this.count}${shown.length ? ", with " + shown.join(", ") : ""}`;
    },
    wanted() {
      if (!this.film) return [];
      return this.captures ? [this.url(`/captures/${this.at}.png`)] : [this.slice(this.at), ...this.overlays(this.at)];
    },
  },
  watch: {
    wanted() {
      this.$nextTick(this.draw);
    },
    opacity() {
      this.draw();
    },
  },
  methods: {
    url(path, more = "") {
      return `${this.base || "/pictures/" + this.job}${path}?view=${this.view}${more}`;
    },
    slice(at) {
      return this.url(`/slices/${at}.png`, this.window ? `&window=${this.window}` : "");
    },
    overlays(at) {
      const shown = this.film.segments.filter((one) => !this.hidden[one.number] && one.slices.includes(at));
      return shown.map((one) => this.url(`/segments/${one.number}/${at}.png`));
    },
    step(by) {
      this.at = Math.min(this.count - 1, Math.max(0, this.at + by));
    },
    key(by) {
      const others = by > 0 ? this.keys.filter((at) => at > this.at) : this.keys.filter((at) => at < this.at).reverse();
      this.at = others.length ? others[0] : this.keys[by > 0 ? 0 : this.keys.length - 1];
    },
    turn(captures) {
      const now = this.at;
      this.captures = captures;
      const same = this.film.captures.indexOf(now);
      this.at = captures ? Math.max(0, same) : (this.film.captures[now] ?? this.film.first);
    },
    load(url) {
      let image = this.images.get(url);
      if (!image) {
        image = new Image();
        image.src = url;
        this.images.set(url, image);
        if (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
      }
      return image.decode().then(() => image);
    },
    async draw() {
      const ticket = ++this.ticket;
      const at = this.at;
      const captures = this.captures;
      try {
        const [base, ...over] = await Promise.all(this.wanted.map(this.load));
        if (ticket !== this.ticket || !base) return;
        const aspect = captures ? 1 : this.film.aspect;
        const canvas = this.$refs.canvas;
        canvas.width = Math.round(base.naturalWidth * (aspect < 1 ? 1 / aspect : 1));
        canvas.height = Math.round(base.naturalHeight * (aspect > 1 ? aspect : 1));
        const pen = canvas.getContext("2d");
        pen.drawImage(base, 0, 0, canvas.width, canvas.height);
        pen.globalAlpha = this.opacity / 100;
        over.forEach((one) => pen.drawImage(one, 0, 0, canvas.width, canvas.height));
        this.drawn = at;
        this.layers = String(over.length);
      } catch {
        if (ticket !== this.ticket) return;
        this.problem = "A picture can't be shown; load the page again.";
        return;
      }
      if (captures) return;
      for (let i = 1; i <= AHEAD; i++)
        [at - i, at + i].filter((one) => one >= 0 && one < this.count).forEach((one) => this.load(this.slice(one)).catch(() => {}));
    },
  },
};
