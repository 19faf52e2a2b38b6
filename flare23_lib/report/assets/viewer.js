// The page's viewer: cases come as scripts that call showCase; NiiVue draws them.
"use strict";
(() => {
  const element = (name) => document.getElementById(`viewer-${name}`);
  const content = JSON.parse(element("content").textContent);
  const loaded = new Map();
  let viewer = null;
  let current = null;
  let wanted = null;
  let turns = 0;

  const print = (text) => { element("place").textContent = text; };

  function palette() {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
    content.labels.forEach((label, index) => {
      const value = parseInt(label.color.slice(1), 16);
      table.R.push(value >> 16); table.G.push((value >> 8) & 255); table.B.push(value & 255);
      table.A.push(255); table.I.push(index + 1); table.labels.push(label.name);
    });
    return table;
  }

  function nameOf(volume) {
    const index = Math.round(volume.value);
    return index > 0 ? content.labels[index - 1].name : "background";
  }

  function located(data) {
    if (!current || data.values.length < 3) return;
    const [, reference, prediction] = data.values;
    const place = data.mm ? Array.from(data.mm).slice(0, 3).map((value) => value.toFixed(0)).join(", ") : "";
    print(`${current.name}: reference ${nameOf(reference)}, prediction ${nameOf(prediction)} (${place} mm)`);
  }

  function applyLayer() {
    if (!current) return;
    const layer = document.querySelector("input[name=layer]:checked").value;
    const opacity = Number(element("opacity").value);
    viewer.setOpacity(1, layer === "reference" ? opacity : 0);
    viewer.setOpacity(2, layer === "prediction" ? opacity : 0);
  }

  function applyPlanes() {
    const types = { axial: viewer.sliceTypeAxial, coronal: viewer.sliceTypeCoronal,
      sagittal: viewer.sliceTypeSagittal, all: viewer.sliceTypeMultiplanar };
    viewer.setSliceType(types[element("planes").value]);
  }

  function goTo(millimeters) {
    viewer.scene.crosshairPos = viewer.mm2frac(millimeters);
    viewer.drawScene();
    viewer.createOnLocationChange();
  }

  async function show(item) {
    const turn = ++turns;
    const volumes = [await niivue.NVImage.loadFromBase64({ base64: item.image, name: "image.nii.gz", colormap: "gray",
      cal_min: 0, cal_max: item.grays })];
    for (const layer of ["reference", "prediction"]) {
      const volume = await niivue.NVImage.loadFromBase64({ base64: item[layer], name: `${layer}.nii.gz`, opacity: 0 });
      volume.setColormapLabel(palette());
      volumes.push(volume);
    }
    if (turn !== turns) return; // another case was chosen meanwhile
    current = null;
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    volumes.forEach((volume) => viewer.addVolume(volume));
    current = item;
    document.querySelectorAll("#viewer-cases button").forEach((button) => {
      button.setAttribute("aria-current", String(button.dataset.name === item.name));
    });
    element("error").disabled = !item.error;
    applyPlanes();
    applyLayer();
    if (item.error) goTo(item.error);
    print(`${item.name} is shown.`);
    document.body.dataset.shown = item.name;
  }

  function open(entry) {
    wanted = entry.name;
    if (loaded.has(entry.name)) { show(loaded.get(entry.name)); return; }
    print(`Loading ${entry.name}.`);
    const script = document.createElement("script");
    script.src = entry.file;
    script.onerror = () => print(`${entry.file} is missing: it belongs beside this page.`);
    document.head.append(script);
  }

  window.showCase = (item) => {
    loaded.set(item.name, item);
    if (item.name === wanted) show(item);
  };

  function keys(event) {
    const steps = { ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0] };
    if (!current || !(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    let [x, y, z] = steps[event.key];
    if (element("planes").value === "coronal") [y, z] = [z, y];
    if (element("planes").value === "sagittal") [x, y, z] = [z, x, y];
    viewer.moveCrosshairInVox(x, y, z);
  }

  function listCases() {
    content.cases.forEach((entry) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = entry.name;
      const name = document.createElement("span");
      const score = document.createElement("span");
      name.textContent = entry.name;
      score.textContent = entry.score;
      button.append(name, score);
      button.addEventListener("click", () => open(entry));
      const row = document.createElement("li");
      row.append(button);
      element("cases").append(row);
    });
    content.labels.forEach((label) => {
      const row = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = label.color;
      row.append(swatch, label.name);
      element("legend").append(row);
    });
  }

  async function start() {
    listCases();
    if (typeof niivue === "undefined") { print("The viewing library is missing beside this page."); return; }
    const canvas = element("canvas");
    canvas.addEventListener("keydown", keys, true);
    viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], isColorbar: false, show3Dcrosshair: false, dragAndDropEnabled: false,
      crosshairWidth: 1, crosshairWidthUnit: "mm", crosshairColor: [1, 1, 1, 0.7], isRadiologicalConvention: true, isNearestInterpolation: false,
      onLocationChange: located, logLevel: "error" });
    try {
      await viewer.attachToCanvas(canvas);
    } catch (error) {
      print("This browser has no WebGL 2, which the viewer needs.");
      return;
    }
    window.ctViewer = viewer;
    document.querySelectorAll("input[name=layer]").forEach((input) => input.addEventListener("change", applyLayer));
    element("opacity").addEventListener("input", applyLayer);
    element("planes").addEventListener("change", applyPlanes);
    element("error").addEventListener("click", () => { if (current) goTo(current.error); });
    open(content.cases[0]);
  }

  start();
})();
