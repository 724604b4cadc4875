// The browser's half of speakerlib.views.microphone: records speech as 16-bit samples and hands them to the kernel.
// Sound travels as a message, never as the widget's state: it is not saved with the notebook.

const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
});`;
const ASKED_FOR = {channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false};
const TROUBLE = {
  NotAllowedError: "The browser did not allow the microphone. Allow it beside the page's address (or in the settings " +
    "of the program that shows this notebook) and press again.",
  NotFoundError: "No microphone was found. Plug one in and press again, or enrol from files: people.enrol(name, paths).",
  NotReadableError: "The microphone is there but gives no sound: another program may hold it. Close that and press again.",
};
const NOT_SECURE = "Browsers give the microphone to secure pages alone: open this notebook at http://localhost:... " +
  "(through an SSH tunnel, if it runs elsewhere) or over https, or enrol from files: people.enrol(name, paths).";

function whyNot(error) {
  return TROUBLE[error.name] || `The microphone cannot be used: ${error.name}: ${error.message}`;
}

// Opens the microphone; onSamples gets blocks of floats. Returns {rate, close}.
async function openMicrophone(onSamples) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw {name: "NotSecure"};
  const stream = await navigator.mediaDevices.getUserMedia({audio: ASKED_FOR});
  const context = new AudioContext();
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
  };
  const url = URL.createObjectURL(new Blob([TAP], {type: "text/javascript"}));
  try {
    await context.audioWorklet.addModule(url);
    await context.resume();
    const tap = new AudioWorkletNode(context, "tap", {numberOfOutputs: 0});
    tap.port.onmessage = (message) => onSamples(message.data);
    context.createMediaStreamSource(stream).connect(tap);
  } catch (error) {
    close();
    throw error;
  } finally {
    URL.revokeObjectURL(url);
  }
  return {rate: context.sampleRate, close};
}

function toPcm(blocks) {
  const pcm = new DataView(new ArrayBuffer(2 * blocks.reduce((sum, block) => sum + block.length, 0)));
  let place = 0;
  for (const block of blocks) {
    for (const sample of block) {
      pcm.setInt16(place, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
      place += 2;
    }
  }
  return pcm;
}

// The loudest samples of the last seconds, from the right, as bars about a middle line.
function drawLevel(canvas, peaks) {
  const pen = canvas.getContext("2d"), {width, height} = canvas;
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = getComputedStyle(canvas).color;
  pen.fillRect(0, height / 2, width, 1);
  peaks.slice(-width / 3).reverse().forEach((peak, place) => {
    const bar = Math.max(1, Math.min(1, Math.sqrt(peak)) * (height - 4));
    pen.fillRect(width - 3 * (place + 1), (height - bar) / 2, 2, bar);
  });
}

function element(parent, tag, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

function drawCandidates(list, candidates) {
  list.replaceChildren();
  for (const [name, probability] of candidates) {
    const row = element(list, "li");
    element(row, "span", {textContent: name});
    element(row, "meter", {min: 0, max: 1, value: probability || 0, title: name});
    element(row, "span", {textContent: probability === null ? "" : `${Math.round(100 * probability)} %`});
  }
}

// Players of WAV files, each under its caption. Returns their addresses, to be revoked.
function drawPlayers(row, captions, sounds) {
  row.replaceChildren();
  return captions.map((caption, place) => {
    const figure = element(row, "figure"), url = URL.createObjectURL(new Blob([sounds[place]], {type: "audio/wav"}));
    element(figure, "figcaption", {textContent: caption});
    element(figure, "audio", {controls: true, src: url}).setAttribute("aria-label", caption);
    return url;
  });
}

function render({model, el}) {
  const box = element(el, "section", {className: "speakerlib-microphone", ariaLabel: "Microphone"});
  const controls = element(box, "div", {className: "controls"});
  const ask = element(controls, "button", {type: "button"});
  const label = element(controls, "label", {textContent: "Name "});
  const name = element(label, "input", {type: "text", maxLength: 64, autocomplete: "off", spellcheck: false});
  const enrol = element(controls, "button", {type: "button"});
  const canvas = element(box, "canvas", {width: 600, height: 56});
  const time = element(box, "div", {className: "time"});
  const said = element(box, "p", {className: "said"});
  said.setAttribute("role", "status");
  canvas.setAttribute("aria-hidden", "true");
  const list = element(box, "ol", {ariaLabel: "Who it may be"});
  const players = element(box, "div", {className: "players"});
  let urls = [];
  let microphone = null, opening = false, purpose = "", blocks = [], peaks = [], length = 0, gone = false;

  function show(text) {
    const busy = microphone !== null || opening;
    for (const [button, what, words] of [[ask, "ask", "Record and ask"], [enrol, "enrol", "Record and enrol"]]) {
      button.textContent = busy && purpose === what ? "Stop" : words;
      button.disabled = busy && purpose !== what;
      button.ariaPressed = String(busy && purpose === what);
    }
    name.disabled = busy;
    box.classList.toggle("recording", microphone !== null);
    if (text !== undefined) said.textContent = text;
  }

  function tick() {
    if (microphone === null) return;
    const seconds = length / microphone.rate, longest = model.get("longest");
    time.textContent = `${seconds.toFixed(1)} s of at most ${longest} s`;
    drawLevel(canvas, peaks);
    if (seconds >= longest) stop();
    else requestAnimationFrame(tick);
  }

  function hush() {
    players.replaceChildren();
    urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  }

  function release() {
    if (microphone) microphone.close();
    microphone = null;
    opening = false;
  }

  async function start(what) {
    if (what === "enrol" && !name.value.trim()) {
      show("Whose voice will it be? Write a name first.");
      name.focus();
      return;
    }
    [purpose, blocks, peaks, length, opening] = [what, [], [], 0, true];
    time.textContent = "";
    list.replaceChildren();
    hush();
    show("Asking the browser for the microphone.");
    try {
      const opened = await openMicrophone((samples) => {
        if (length < model.get("longest") * (microphone?.rate ?? 48000)) {
          blocks.push(samples);
          length += samples.length;
          if (blocks.length % 8 === 1) peaks.push(0);
          peaks[peaks.length - 1] = samples.reduce((most, each) => Math.max(most, Math.abs(each)),
                                                   peaks[peaks.length - 1]);
        }
      });
      if (gone || !opening) {
        opened.close(); // given up while the browser asked
        return;
      }
      microphone = opened;
      opening = false;
      show("Recording: speak, then press Stop. Escape throws it away.");
      setTimeout(tick, 50);
    } catch (error) {
      release();
      show(error.name === "NotSecure" ? NOT_SECURE : whyNot(error));
    }
  }

  function stop() {
    const rate = microphone.rate;
    release();
    time.textContent = `${(length / rate).toFixed(1)} s`;
    show("Sent to the kernel; it answers when it is free.");
    model.send({kind: "recorded", purpose, name: name.value.trim(), sample_rate: rate}, undefined, [toPcm(blocks)]);
  }

  function giveUp() {
    release();
    time.textContent = "";
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    show("Nothing was kept.");
  }

  for (const [button, what] of [[ask, "ask"], [enrol, "enrol"]]) {
    button.addEventListener("click", () => {
      if (microphone) stop();
      else if (opening) giveUp();
      else start(what);
    });
  }
  // Letters in the name, and Space and Enter on a button, are not the notebook's; Control with S is.
  const ours = (event) => !event.ctrlKey && !event.metaKey;
  const releaseKeys = claimKeys((control) => box.contains(control), ours);
  box.addEventListener("keydown", (event) => {
    if (ours(event)) event.stopPropagation();
    if (event.key === "Escape" && (microphone || opening)) giveUp();
    if (event.key === "Enter" && event.target === name) start("enrol");
  });
  const answered = (message, buffers) => {
    if (message.kind === "nearest") urls = drawPlayers(players, message.captions, buffers);
    if (message.kind !== "answered") return;
    show(message.text);
    drawCandidates(list, message.candidates);
  };
  model.on("msg:custom", answered);
  show(window.isSecureContext ? "" : NOT_SECURE);
  return () => {
    gone = true;
    release();
    hush();
    releaseKeys();
    model.off("msg:custom", answered);
  };
}

export default {render};
