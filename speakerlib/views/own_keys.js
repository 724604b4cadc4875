// While one of its controls has the focus, keys are the controls' own: JupyterLab takes arrows and letters for commands.
export default {
  render({el}) {
    const ours = (event) => !event.ctrlKey && !event.metaKey && !(event.shiftKey && event.key === "Enter");
    const claim = (event) => { // on the control itself, where JupyterLab begins to look
      if ((el.closest(".jp-OutputArea-output") ?? el.parentElement)?.contains(event.target))
        event.target.toggleAttribute("data-lm-suppress-shortcuts", ours(event));
    };
    window.addEventListener("keydown", claim, true); // before JupyterLab looks
    return () => window.removeEventListener("keydown", claim, true);
  },
};
