// While one of its controls has the focus, keys are the controls' own: JupyterLab takes arrows and letters for commands.
export default {
  render({el}) {
    const ours = (event) => !event.ctrlKey && !event.metaKey && !(event.shiftKey && event.key === "Enter");
    return claimKeys((control) => (el.closest(".jp-OutputArea-output") ?? el.parentElement)?.contains(control), ours);
  },
};
