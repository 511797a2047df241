"""What the supervisor hears of the memory."""

import time

from actors.gpu.calibration import Calibration
from actors.gpu.monitor import Gpu, GpuMonitor, Sample
from actors.gpu.observer import Observer
from actors.messages import MemorySampled
from actors.placement.ledger import HostMemory

GPU = Gpu(index=0, uuid="GPU-1", name="H100", total=80, used=70, free=10, groups={11: 40, 12: 20}, driver="1")


async def test_what_a_dead_gateway_left_counts_as_free() -> None:
    sample = Sample(asked_at=time.monotonic(), gpus=(GPU,), host=HostMemory(total=1, available=1))
    monitor = GpuMonitor(0, lambda: sample)
    calibration = Calibration(None)
    observer = Observer(monitor, calibration, manages=True)
    heard: list[MemorySampled] = []
    observer.attach(heard.append)
    left: list[int] = []
    observer.left_over = lambda: left
    monitor.start()
    await monitor.wait_first()
    await observer.refresh()
    heard.clear()
    for sessions, used in (([], 70), ([11], 30), ([11, 13], 30), ([11, 12], 10)):
        left[:] = sessions
        observer.report_again()
        assert heard.pop().devices[0].used == used
    await monitor.stop()
    calibration.close()
