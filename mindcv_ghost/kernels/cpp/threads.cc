// The number of threads that the operators run on.

#include "thread_pool.h"

// Threads of this process; 1 until it is called.
extern "C" void ghost_set_threads(int threads) { ghost::SharedPool::set_threads(threads); }
