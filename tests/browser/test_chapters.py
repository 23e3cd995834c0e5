"""The numbered notebooks on their own defaults, in JupyterLab and a headless Chromium."""

import pytest

pytest_plugins = ["in_browser"]
# what the first screen says, and what stands in some output below
CHAPTERS = {
    "01_poisoning": ("a data set with a backdoor, and the victim that learns it", "rows poisoned"),
    "02_dmm": ("unlearn the clean mapping, keep the backdoor", "flipped labels that the DMM gives"),
    "03_mepd": ("find poisoned rows in the training set", "purity of D_p^few*"),
    "04_akd": ("erase the backdoor, keep the rest", "Never poisoned"),
    "05_defences": ("The rival defences", "Fine-tuning"),
    "06_ablations": ("what each part does", "DMM+AKD"),
    "07_sensitivity": ("How sensitive is BeDKD?", "n_poison"),
    "08_tsne": ("where the poisoned rows go", "other than the target"),
    "10_tables": ("Reads the records of a profile's runs", "table1: ASR and CACC (%)"),
    "11_figures": ("Reads what a profile's runs left", ""),
}


@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_runs(open_notebook, name):
    first, shown = CHAPTERS[name]
    notebook = open_notebook(name)
    notebook.check()
    page = notebook.page
    told = page.locator(".jp-RenderedMarkdown").filter(has_text=first).first
    told.scroll_into_view_if_needed()
    assert told.is_visible() and told.bounding_box()["y"] < page.viewport_size["height"]
    outputs = page.locator(".jp-OutputArea")
    assert shown in " ".join(outputs.all_inner_texts())
    assert outputs.locator("img").count() or name == "10_tables"
    page.close()
