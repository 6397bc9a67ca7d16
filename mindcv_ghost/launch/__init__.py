"""Making one data-parallel job of the processes that mpirun, msrun or srun started.

In: the launcher's environment variables, and a script's ``main``. Out: ranks that are one MindSpore
cluster. When a rank dies, all end within 30 seconds and the last line says why; a signal to stop
leaves the ranks time to save; no process is left behind.

Read ``script.run_script`` first. A rank's way from its launcher to its first AllReduce:

1. ``world.detect`` reads rank and size; ``environment.prepare_environment`` sets what MindSpore
   reads at import. A single process skips the rest and runs ``main``.
2. ``supervisor.Supervisor.fork`` forks twice: the process that the launcher started becomes the
   signal relay (``signal_relay``), its child the supervisor, the grandchild the rank.
3. The supervisors find each other (``rendezvous``) and stay connected (``failure_channel``).
4. The rank runs ``main``, which calls ``cluster.join``: rank 0's supervisor starts MindSpore's
   scheduler (``scheduler``), all ranks learn its address, and ``mindspore.communication.init()``
   makes them one cluster.
"""
