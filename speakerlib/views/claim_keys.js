// JupyterLab's shortcuts leave keys to the control that has the focus if that itself carries this attribute.
// `holds`: is a control ours? `ours`: is a key the control's? Returns what ends it.
function claimKeys(holds, ours) {
  const claim = (event) => {
    if (holds(event.target)) event.target.toggleAttribute("data-lm-suppress-shortcuts", ours(event));
  };
  window.addEventListener("keydown", claim, true); // before JupyterLab looks
  return () => window.removeEventListener("keydown", claim, true);
}
