"""A page to search an index with pictures, and its server. `app.create_app` makes the application.

A picture takes this way: guard (who may ask), upload (bytes, within limits), pool and worker (decoded in a process that
can be killed), batches (with the others that came together), engine (embedded and searched), app (JSON).
"""
