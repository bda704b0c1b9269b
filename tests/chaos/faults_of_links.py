"""Links that lose, delay, go one way, come and go, or are cut."""

import time

from client import ALL_TOOLS
from mesh import COORDINATOR
from scene import MESSAGE_TIMEOUT, QUICK_TOOLS, SHORT_TIMEOUT, VIEWS_SECONDS, Options, bites, heals, scene

FLIP_SECONDS = 20.0


def emulator(options: Options) -> None:
    """The links do what they are told: loss, delay, jitter, one way, each measured with real packets."""
    from network import Network

    with Network(["a", "b", "c"], options.seed) as network:
        answered, trip = network.ping("a", "b", 50, 0.01)
        assert answered == 50 and trip < 0.02, (answered, trip)
        network.set(network.all_pairs(), delay=0.03)
        answered, trip = network.ping("a", "b", 20)
        assert answered == 20 and 0.06 <= trip < 0.1, (answered, trip)
        network.set(network.all_pairs(), delay=0.01, jitter=0.04)
        answered, trip = network.ping("a", "b", 50)
        assert answered == 50 and 0.03 < trip < 0.1, (answered, trip)
        network.set([("a", "b")], loss=0.5)
        network.set([("b", "a")])
        answered, _ = network.ping("a", "b", 400, 0.002)
        assert 150 <= answered <= 250, answered
        network.set(network.all_pairs())
        network.set([("a", "b")], cut=True)
        assert network.ping("a", "b", 3)[0] == 0 and network.ping("c", "b", 3)[0] == 3
        before = network.counts()["b", "a"]["passed"]
        # Only one way is cut: the question arrives, the answer does not.
        assert network.ping("b", "a", 3)[0] == 0
        counts = network.counts()
        assert counts["b", "a"]["passed"] >= before + 3, counts
        assert not network.connects("b", "a", 9, 0.5)
        print("    loss, delay, jitter and cuts are as ordered", flush=True)


def loss(options: Options) -> None:
    """Every link loses 10 % and is 50 ms long, with jitter: work goes on, and nobody is FAILED."""
    with scene(options, "loss") as at:
        at.expect()
        since = time.monotonic()
        at.network.set(at.network.all_pairs(), loss=0.1, delay=0.04, jitter=0.02)
        answered, trip = at.network.ping(COORDINATOR, "backend-dev", 100, 0.01)
        assert 60 <= answered <= 95 and trip >= 0.08, f"{answered} of 100 answered, round trip {trip}"
        at.same_result(at.lint(QUICK_TOOLS))
        at.stays(10)
        counts = at.network.counts()
        dropped = sum(count["dropped"] for count in counts.values())
        for node in at.mesh.nodes:
            story = at.story(node, since)
            assert not any("FAILED" in change for change in story), f"{node}: {story}"
            at.say(f"{node}: {story or 'stays ACTIVE'}")
        at.say(f"the same result; {dropped} packets were lost")
        at.network.set(at.network.all_pairs())
        at.whole()


def cut_from_all(options: Options) -> None:
    """A node that lints is cut off from everybody, without a word: DEGRADED, its work goes to others, FAILED."""
    with scene(options, "cut-from-all", SHORT_TIMEOUT) as at:
        at.expect(ALL_TOOLS)
        at.settle()
        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        ends = at.network.into("backend-dev") + at.network.out_of("backend-dev")
        cut = time.monotonic()
        at.network.set(ends, cut=True)
        bites(at.network, COORDINATOR, "backend-dev")
        at.degraded("backend-dev", cut)
        second = at.second_attempt(run, "backend-dev", cut)
        at.say(f"its task got a second attempt elsewhere after {second:.2f} s")
        at.same_result(run, ALL_TOOLS)
        failed = at.health.reaches("backend-dev", "FAILED", cut, MESSAGE_TIMEOUT + 20) - cut
        at.say(f"the same result; FAILED after {failed:.2f} s")
        # Its silence began with its last word, up to an unanswered probe before the cut.
        assert MESSAGE_TIMEOUT - 2 <= failed <= MESSAGE_TIMEOUT + 2, f"FAILED after {failed:.2f} s"
        at.others_undisturbed(["backend-dev"], cut)
        healed = time.monotonic()
        at.network.set(ends)
        heals(at.network, COORDINATOR, "backend-dev")
        at.active("backend-dev", healed, 30)
        at.whole(30)


def cut_from_coordinator(options: Options) -> None:
    """A node that lints is cut off from the coordinator only: it keeps its work, and its results come by a peer."""
    with scene(options, "cut-from-coordinator", SHORT_TIMEOUT) as at:
        at.expect(ALL_TOOLS)
        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        ends = at.network.between([COORDINATOR], ["backend-dev"])
        cut = time.monotonic()
        at.network.set(ends, cut=True)
        bites(at.network, COORDINATOR, "backend-dev")
        at.degraded("backend-dev", cut)
        at.same_result(run, ALL_TOOLS)
        at.stays(max(0.0, cut + MESSAGE_TIMEOUT + 3 - time.monotonic()))
        at.at_most(1, "backend-dev", cut)
        at.others_undisturbed(["backend-dev"], cut)
        accepted = [done for arrived, done in run.events("task_accepted") if arrived > cut]
        by_it = [done for done in accepted if done.node_id == "backend-dev"]
        moved = [moved for _, moved in run.events("redistribution") if moved.from_node_id == "backend-dev"]
        assert by_it, "none of its results came by a peer"
        at.say(f"the same result; {len(by_it)} of its tasks came by a peer, {len(moved)} times work was taken from it")
        healed = time.monotonic()
        at.network.set(ends)
        heals(at.network, COORDINATOR, "backend-dev")
        at.active("backend-dev", healed, 30)
        at.whole(30)


def one_way(options: Options) -> None:
    """One direction is cut: first what a node sends, later what it is sent."""
    with scene(options, "one-way") as at:
        at.expect()
        for ends in (at.network.out_of("api-docs"), at.network.into("api-docs")):
            cut = time.monotonic()
            at.network.set(ends, cut=True)
            bites(at.network, COORDINATOR, "api-docs")
            at.same_result(at.lint(QUICK_TOOLS))
            at.degraded("api-docs", cut)
            at.stays(max(0.0, cut + FLIP_SECONDS - time.monotonic()))
            at.at_most(1, "api-docs", cut)
            healed = time.monotonic()
            at.network.set(ends)
            heals(at.network, COORDINATOR, "api-docs")
            at.active("api-docs", healed, 40)
            at.whole(30)
            at.at_most(1, "api-docs", healed)
            at.others_undisturbed(["api-docs"], cut)


def flip_flop(options: Options) -> None:
    """What a node is sent is lost for 20 s, arrives for 20 s, and so on: one change of status for each flip at most."""
    with scene(options, "flip-flop") as at:
        began, faults = time.monotonic(), 0
        for _ in range(2):
            for cut in (True, False):
                at.network.set(at.network.into("api-docs"), cut=cut)
                flipped = time.monotonic()
                (bites if cut else heals)(at.network, COORDINATOR, "api-docs")
                faults += 1
                at.stays(max(0.0, flipped + FLIP_SECONDS - time.monotonic()))
                at.at_most(1, "api-docs", flipped)
        at.at_most(faults, "api-docs", began)
        at.others_undisturbed(["api-docs"], began)
        at.client.ready(60)
        at.views_equal(VIEWS_SECONDS)


def lossy_node(options: Options) -> None:
    """80 % of what a node is sent is lost: one change of status at most."""
    with scene(options, "lossy-node") as at:
        began = time.monotonic()
        at.network.set(at.network.into("api-docs"), loss=0.8)
        answered, _ = at.network.ping(COORDINATOR, "api-docs", 100, 0.01)
        assert 5 <= answered <= 40, f"{answered} of 100 packets were answered"
        at.stays(60)
        at.at_most(1, "api-docs", began)
        at.others_undisturbed(["api-docs"], began)
        healed = time.monotonic()
        at.network.set(at.network.into("api-docs"))
        at.client.ready(90)
        at.at_most(1, "api-docs", healed)
        at.views_equal(VIEWS_SECONDS)


def partition(options: Options) -> None:
    """Two of four nodes are cut off together: the coordinator suspects itself, and nobody is FAILED."""
    with scene(options, "partition") as at:
        at.expect()
        cut = time.monotonic()
        far = ["api-docs", "backend-dev"]
        near = [COORDINATOR, *(node for node in at.mesh.nodes if node not in far)]
        ends = at.network.between(near, far)
        at.network.set(ends, cut=True)
        for node in far:
            bites(at.network, COORDINATOR, node)
        # What a coordinator that suspects itself has given to them waits for them; new work goes to the others.
        for node in far:
            at.degraded(node, cut)
        at.same_result(at.lint(QUICK_TOOLS))
        # Beyond the timeout of 30 s; at twice the timeout they would be given up for good.
        at.stays(max(0.0, cut + 33 - time.monotonic()))
        for node in far:
            at.at_most(1, node, cut)
            assert "FAILED" not in {status for _, status, _ in at.health.changes(node, cut)}, at.story(node, cut)
        at.others_undisturbed(far, cut)
        healed = time.monotonic()
        at.network.set(ends)
        heals(at.network, COORDINATOR, far[0])
        at.whole(30)
        at.say(f"whole again {time.monotonic() - healed:.1f} s after the partition ended")
        for node in far:
            at.at_most(1, node, healed)
        at.same_result(at.lint(QUICK_TOOLS))
