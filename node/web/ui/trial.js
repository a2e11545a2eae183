// Files in, what was found out. File names stay in the browser.
const QUIET_MS = 1000;

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one)));
  }
}

export default {
  props: { pipelines: Array, fields: Array, limits: Object },
  template: `
    <div class="columns trial">
      <form class="result" @submit.prevent="send" aria-label="Upload">
        <div :class="['drop', { over }]" @dragover.prevent="over = !busy" @dragleave="over = false" @drop.prevent="drop">
          <label class="pick"><input ref="input" type="file" multiple class="hide" :disabled="busy" @change="take([...$event.target.files])"><span class="act">Choose files</span></label>
          <p>or drop them here: DICOM, a zip of a series, PNG, JPEG</p>
          <p class="soft">At most {{ limits.upload_mb }} MB and {{ limits.files }} files, of one study.</p>
          <p v-if="files.length" role="status"><strong>{{ told }}</strong> <button type="button" class="act" :disabled="busy" @click="forget">Take away</button></p>
        </div>
        <div class="fields">
          <div><label for="try-pipeline">Pipeline</label>
            <select id="try-pipeline" v-model="pipeline" :disabled="busy">
              <option value="">The rules choose</option>
              <option v-for="one in pipelines" :value="one.name">{{ one.name }}</option>
            </select></div>
        </div>
        <p v-if="chosen" class="soft">{{ chosen.title }}. Takes {{ chosen.accepts.join(", ") }}.</p>
        <p v-else class="soft">Rules choose for DICOM. A PNG or JPEG does not say what it shows: name the pipeline.</p>
        <details>
          <summary>What is known of the patient (optional)</summary>
          <div class="fields">
            <div v-for="one in fields"><label :for="'try-' + one.name">{{ one.title }}{{ one.unit ? ', ' + one.unit : '' }}</label>
              <select v-if="one.choices.length" :id="'try-' + one.name" v-model="patient[one.name]" :disabled="busy">
                <option value="">not known</option><option v-for="word in one.choices" :value="word">{{ word }}</option></select>
              <input v-else :id="'try-' + one.name" type="number" step="any" :min="one.low" :max="one.high" v-model="patient[one.name]" :disabled="busy"></div>
          </div>
          <p v-if="chosen" class="soft">{{ chosen.clinical.length ? chosen.name + ' uses: ' + named(chosen.clinical) + '.' : chosen.name + ' uses none of it.' }}</p>
        </details>
        <p v-if="said" class="said bad" role="alert">{{ said }}</p>
        <div class="strip">
          <button type="submit" class="act main" :disabled="busy || !files.length">Analyse</button>
          <button v-if="busy" type="button" class="act" @click="stop">Stop</button>
        </div>
        <div v-if="busy" class="progress">
          <p role="status">{{ share < 1 ? 'Sending' : 'Being analysed' }} …</p>
          <progress v-if="share < 1" max="1" :value="share" aria-label="Sent"></progress><progress v-else aria-label="Being analysed"></progress>
          <p class="soft">{{ share < 1 ? Math.round(100 * share) + ' %' : seconds + ' s. The first upload after a while takes longer: the model is loaded.' }}</p>
        </div>
      </form>
      <section class="found" aria-label="Result">
        <article v-if="found" class="result">
          <h2 ref="headline" tabindex="-1">{{ headline }}</h2>
          <p v-if="!found.analysed" class="said bad">{{ found.reason }}</p>
          <p v-if="found.pipeline" class="soft">By {{ found.pipeline }} {{ found.model ? found.model.version : '' }}{{ found.rule ? ', chosen by the rule “' + found.rule + '”' : '' }}.
            <template v-if="found.other_pipelines.length">The rules name {{ found.other_pipelines.join(', ') }} too.</template></p>
          <div v-if="found.analysed" class="scroll" tabindex="0" role="group" aria-label="Findings, a table"><table class="plain"><caption class="hide">Findings</caption>
            <thead><tr><th scope="col">Finding</th><th scope="col">Probability</th><th scope="col">Decision</th><th scope="col">Where</th><th scope="col">Measured</th></tr></thead>
            <tbody><tr v-for="one in found.findings">
              <th scope="row">{{ one.name }}</th>
              <td>{{ one.probability === null ? '' : chance(one.probability, 1) }}</td>
              <td><span v-if="one.present !== null" :class="['chip', one.present ? 'bad' : 'good']">{{ one.present ? 'present' : 'not present' }}</span>
                <span v-else :title="one.remark">{{ one.trained ? 'nothing is said' : 'not trained: nothing is said' }}</span></td>
              <td>{{ [one.laterality, one.site].filter(Boolean).join(' ') }}</td>
              <td>{{ one.measurements.map(measured).join('; ') }}</td></tr></tbody></table></div>
          <figure v-if="picture" class="page-picture"><img :src="picture" :alt="'Original beside the heat map of ' + found.pipeline"></figure>
          <p v-else-if="found.analysed" class="soft">The pipeline draws no picture for this upload.</p>
          <template v-if="found.notes.length"><h3>To know</h3><ul><li v-for="note in found.notes">{{ note }}</li></ul></template>
          <p v-if="found.clinical_used.length" class="soft">Used of the patient's data: {{ named(found.clinical_used) }}.</p>
          <p v-if="found.left_out" class="soft">{{ found.left_out }} files of the zip are neither DICOM nor pictures and were left out.</p>
          <p class="soft">{{ found.disclaimer }} Nothing of the upload was kept.</p>
        </article>
        <p v-else class="soft">What the model finds will stand here.</p>
      </section>
    </div>`,
  data() {
    return { files: [], over: false, pipeline: "", patient: {}, said: "", busy: false, share: 0, seconds: 0, found: null, picture: "" };
  },
  created() {
    this.fields.forEach((one) => (this.patient[one.name] = ""));
    const last = sessionStorage.getItem("radnode.pipeline") || "";
    if (this.pipelines.some((one) => one.name === last)) this.pipeline = last;
  },
  beforeUnmount() {
    this.stop();
  },
  watch: {
    pipeline(name) {
      sessionStorage.setItem("radnode.pipeline", name);
    },
  },
  computed: {
    chosen() {
      return this.pipelines.find((one) => one.name === this.pipeline);
    },
    told() {
      const size = this.files.reduce((sum, one) => sum + one.size, 0);
      const said = size < 1e6 ? `${Math.ceil(size / 1000)} kB` : `${(size / 1e6).toFixed(1)} MB`;
      return `${this.files.length} ${this.files.length === 1 ? "file" : "files"}, ${said}`;
    },
    headline() {
      if (!this.found.analysed) return "Not analysed";
      const sure = this.found.confidence === null ? "" : `, ${this.chance(this.found.confidence, 0)}`;
      return (this.found.label || "No label") + sure;
    },
  },
  methods: {
    chance(probability, decimals) {  // as in reports: what is not quite sure is not rounded to 0 or 100
      const said = (100 * probability).toFixed(decimals);
      const least = 10 ** -decimals;
      if (Number(said) >= 100) return `>${(100 - least).toFixed(decimals)} %`;
      return Number(said) <= 0 ? `<${least.toFixed(decimals)} %` : `${said} %`;
    },
    measured(one) {
      const unit = one.unit.startsWith("{") ? "" : one.unit.replace(/(?<=[a-z])[23]$/, (power) => "²³"[power - 2]);
      return `${one.name} ${Number(one.value.toPrecision(4))} ${unit}`.trim();
    },
    named(fields) {
      return fields.map((name) => (this.fields.find((one) => one.name === name) || { title: name }).title.toLowerCase()).join(", ");
    },
    take(files) {
      this.said = "";
      if (files.length) this.files = files;
    },
    forget() {
      this.files = [];
      this.$refs.input.value = "";
    },
    async drop(event) {
      this.over = false;
      if (this.busy) return;
      const entries = [...event.dataTransfer.items].map((one) => one.webkitGetAsEntry && one.webkitGetAsEntry()).filter(Boolean);
      try {
        this.take(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...event.dataTransfer.files]);
      } catch {
        this.said = "What was dropped can't be read; choose the files by the button.";
      }
    },
    refused() {
      const size = this.files.reduce((sum, one) => sum + one.size, 0);
      if (size > this.limits.upload_mb * 1048576) return `The upload is larger than ${this.limits.upload_mb} MB; take one series.`;
      if (this.files.length > this.limits.files) return `There are more than ${this.limits.files} files; take one series.`;
      if (!this.pipeline && this.files.some((one) => ["image/png", "image/jpeg"].includes(one.type)))
        return "A picture does not say what it shows: name the pipeline.";
      return "";
    },
    send() {
      this.said = this.refused();
      if (this.said) return;
      const body = new FormData();
      this.files.forEach((one, i) => body.append("files", one, `${i + 1}`));
      if (this.pipeline) body.append("pipeline", this.pipeline);
      const told = Object.fromEntries(Object.entries(this.patient).filter(([, value]) => value !== ""));
      if (Object.keys(told).length) body.append("clinical", JSON.stringify(told));
      this.found = null;
      this.picture = "";
      this.busy = true;
      this.share = 0;
      this.seconds = 0;
      const asked = new XMLHttpRequest();
      this.asked = asked;
      asked.upload.onprogress = (event) => event.lengthComputable && (this.share = Math.min(0.99, event.loaded / event.total));
      asked.upload.onload = () => {
        this.share = 1;
        this.clock = setInterval(() => this.seconds++, QUIET_MS);
      };
      asked.onload = () => this.answered(asked);
      asked.onerror = () => this.ended("The node did not answer. It may have refused an upload that is too large; try again with one series.");
      asked.onabort = () => this.ended("Stopped. Nothing was kept.");
      asked.open("POST", "/try/upload");
      asked.setRequestHeader("Accept", "application/json");
      asked.send(body);
    },
    answered(asked) {
      let said = {};
      try {
        said = JSON.parse(asked.responseText);
      } catch {
        /* said below */
      }
      if (asked.status === 401) return window.location.reload();
      if (asked.status !== 200) return this.ended(said.detail || "The node could not answer; try again, then tell the administrator.");
      this.ended("");
      this.found = said.prediction;
      this.picture = said.picture;
      this.$nextTick(() => this.$refs.headline.focus());
    },
    ended(said) {
      clearInterval(this.clock);
      this.busy = false;
      this.asked = null;
      this.said = said;
    },
    stop() {
      if (this.asked) this.asked.abort();
    },
  },
};
