"""The part of the SDK that runs only inside a component.

`app` is the component's world: it loads the author's file while the component is built, so that a
prediction starts from a snapshot in which everything is imported. `bindings` turns the host's
interface into `dormouse.host`; `overlay`, `archive` and `loop` stand in for the files, the importable
modules and the sockets that a component has not.
"""
