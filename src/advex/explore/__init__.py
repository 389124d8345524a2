"""The explore page: somebody asks models about one picture after another, alone or as the owner of a project.

Nothing is computed in the server: a process of lower priority holds the models and the pictures, and answers the newest
request of each page. Annotators never wait for it.

    sources     models and data as they are named on the command line
    requests    what goes between the server and that process
    desk        the server's side: starts the process, asks it, gives it up and starts it again
    process     the other side: one thread for the model, one for what is quick
    study       the models and the pictures, and what is computed of them
    uploads     pictures of the owner's own, read and written anew
    saved       explanations that are kept, and their page
    routes      pages and interface, behind the owner's door
    alone       the page without a project: `advex explore`

`requests`, `desk`, `routes` and `alone` import no model code, and none of these a database.
"""
