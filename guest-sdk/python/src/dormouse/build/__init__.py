"""From a folder with a predictor to a component, on the author's machine.

`python -m dormouse.build FOLDER -o predictor.wasm` reads the project (`project`, `cogyaml`), compares the
author's files with what a component can do (`usage`), collects pure-Python requirements
(`requirements`), lays everything out (`stage`) and has componentize-py make the component
(`component`). What it is doing and what it noticed goes to standard error as JSON lines (`report`); what
came out is one JSON object on standard output.
"""
