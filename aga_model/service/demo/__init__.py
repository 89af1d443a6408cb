"""
A page to search a gallery with: `aga demo`.

- `service`: what the page can ask of the gallery and the model; its errors may be shown to strangers.
- `markup`: results and explanations as HTML.
- `page`: the page itself (Gradio).
- `guard`: who may ask for what; stands in front of everything that Gradio serves.
- `server`: the socket and the web server.

`page` and `server` need the extra `demo`; nothing outside imports them before the demo is started.
"""
