"""A subject in a process of its own: what crosses the border, the child that runs it, the parent's side.

    parent (Isolated)  --- request: method, arguments --->  child (serve)  --- the same method of InProcess
                       <-- answer: plain values, arrays --

A file without a name holds how far the child has come, for when it does not come back.

The child loads the stranger's file, builds the layer and runs it. It may print, crash, exit, hang, fork, patch NumPy: what
reaches the parent is data of a few known types, whose shape is checked before it is copied, or the news that the process has
ended. The parent never imports the stranger's code, and kills what does not answer in time.
"""
