"""Sphinx's settings for the book. build.py lays the pages out before Sphinx reads them."""

from book.build import BUILD, HERE, address

project = "Steering Diffusion"
author = copyright = "The Steering Diffusion authors"
extensions = ["myst_nb", "sphinxcontrib.bibtex"]
templates_path = []

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
bibtex_bibfiles = [str(HERE / "references.bib")]
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = "Steering Diffusion"
html_favicon = html_logo = str(HERE / "static" / "icon.svg")
html_static_path = [str(HERE / "static"), str(BUILD / "static")]
html_extra_path = [str(BUILD / "extra")]
html_css_files = ["strip.css", "book.css"]
html_js_files = [("live.js", {"type": "module"})]
html_context = {"default_mode": "auto"}  # light or dark as the system is
html_show_sourcelink = html_copy_source = html_show_copyright = False
mathjax_path = "mathjax/tex-chtml.js"
# Its menu would fetch parts that are not here.
mathjax3_config = {"options": {"enableMenu": False}}

repository, branch = address()
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "logo": {"text": project},
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "pygments_light_style": "a11y-light",
    "pygments_dark_style": "a11y-dark",
}
if repository:  # a copy of the course has its own links, and one without an address has none
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": branch,
        "path_to_docs": "notebooks",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }
