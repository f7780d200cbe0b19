"""The official suites of two editions, by name, and where this project has them.

2024 numbers its labs 1 to 5; 2025 split some. A name that both have is one row.
"""

from typing import Final, NamedTuple


class Official(NamedTuple):
    """One test of the course's."""

    edition: str
    """"2024", "2025" or "both"."""
    lab: str
    name: str
    where: str
    """Its counterpart is in this folder, or file; from the root."""


class _Suite(NamedTuple):
    edition: str
    lab: str
    where: str
    names: str


_SUITES: Final = (
    _Suite(
        "both",
        "labrpc",
        "tests/labrpc/test_labnet.py",
        "TestBasic TestTypes TestDisconnect TestCounts TestBytes TestConcurrentMany TestUnreliable "
        "TestConcurrentOne TestRegression1 TestKilled TestBenchmark",
    ),
    _Suite("2025", "labrpc", "tests/labrpc/test_labnet.py", "TestLongDelayRace"),
    _Suite("both", "labgob", "tests/labs/test_labgob.py", "TestGOB TestCapital TestDefault"),
    _Suite("2025", "tester1", "tests/labs/test_tester1.py", "TestBasic TestShutdownServer"),
    _Suite(
        "both",
        "1 mr",
        "tests/labs/mapreduce",
        "wc indexer map-parallelism reduce-parallelism job-count early-exit crash",
    ),
    _Suite(
        "2024",
        "2 kvsrv",
        "tests/labs/kvsrv",
        "TestBasic2 TestConcurrent2 TestUnreliable2 TestUnreliableOneKey2 TestMemGet2 TestMemPut2 "
        "TestMemAppend2 TestMemPutManyClients TestMemGetManyClients TestMemManyAppends",
    ),
    _Suite(
        "2025",
        "2 kvsrv1",
        "tests/labs/kvsrv",
        "TestReliablePut TestPutConcurrentReliable TestMemPutManyClientsReliable TestUnreliableNet",
    ),
    _Suite(
        "2025",
        "2 lock",
        "tests/labs/kvsrv",
        "TestOneClientReliable TestManyClientsReliable TestOneClientUnreliable "
        "TestManyClientsUnreliable",
    ),
    _Suite(
        "both",
        "3 raft",
        "tests/labs/raft",
        "TestInitialElection3A TestReElection3A TestManyElections3A TestBasicAgree3B "
        "TestRPCBytes3B TestFollowerFailure3B TestLeaderFailure3B TestFailAgree3B "
        "TestFailNoAgree3B TestConcurrentStarts3B TestRejoin3B TestBackup3B TestCount3B "
        "TestPersist13C TestPersist23C TestPersist33C TestFigure83C TestUnreliableAgree3C "
        "TestFigure8Unreliable3C TestReliableChurn3C TestUnreliableChurn3C TestSnapshotBasic3D "
        "TestSnapshotInstall3D TestSnapshotInstallUnreliable3D TestSnapshotInstallCrash3D "
        "TestSnapshotInstallUnCrash3D TestSnapshotAllCrash3D TestSnapshotInit3D",
    ),
    _Suite(
        "2024",
        "4 kvraft",
        "tests/labs/kvraft",
        "TestBasic4A TestSpeed4A TestConcurrent4A TestUnreliable4A TestUnreliableOneKey4A "
        "TestOnePartition4A TestManyPartitionsOneClient4A TestManyPartitionsManyClients4A "
        "TestPersistOneClient4A TestPersistConcurrent4A TestPersistConcurrentUnreliable4A "
        "TestPersistPartition4A TestPersistPartitionUnreliable4A "
        "TestPersistPartitionUnreliableLinearizable4A TestSnapshotRPC4B TestSnapshotSize4B "
        "TestSpeed4B TestSnapshotRecover4B TestSnapshotRecoverManyClients4B "
        "TestSnapshotUnreliable4B TestSnapshotUnreliableRecover4B "
        "TestSnapshotUnreliableRecoverConcurrentPartition4B "
        "TestSnapshotUnreliableRecoverConcurrentPartitionLinearizable4B",
    ),
    _Suite(
        "2025",
        "4 rsm",
        "tests/labs/rsm",
        "TestBasic4A TestConcurrent4A TestLeaderFailure4A TestLeaderPartition4A "
        "TestRestartReplay4A TestShutdown4A TestRestartSubmit4A TestSnapshot4C",
    ),
    _Suite(
        "2025",
        "4 kvraft1",
        "tests/labs/kvraft",
        "TestBasic4B TestSpeed4B TestConcurrent4B TestUnreliable4B TestOnePartition4B "
        "TestManyPartitionsOneClient4B TestManyPartitionsManyClients4B TestPersistOneClient4B "
        "TestPersistConcurrent4B TestPersistConcurrentUnreliable4B TestPersistPartition4B "
        "TestPersistPartitionUnreliable4B TestPersistPartitionUnreliableLinearizable4B "
        "TestSnapshotRPC4C TestSnapshotSize4C TestSpeed4C TestSnapshotRecover4C "
        "TestSnapshotRecoverManyClients4C TestSnapshotUnreliable4C "
        "TestSnapshotUnreliableRecover4C TestSnapshotUnreliableRecoverConcurrentPartition4C "
        "TestSnapshotUnreliableRecoverConcurrentPartitionLinearizable4C",
    ),
    _Suite(
        "2024",
        "5A shardctrler",
        "tests/labs/shardctrler",
        "TestBasic/LeaveJoin TestBasic/HistoricalQueries TestBasic/Move "
        "TestBasic/ConcurrentLeaveJoin TestBasic/MinimalTransfer "
        "TestBasic/MinimalTransferAfterLeave TestMinimalAgain TestMulti/LeaveJoin "
        "TestMulti/ConcurrentLeaveJoin TestMulti/MinimalTransfer "
        "TestMulti/MinimalTransferAfterLeave TestMulti/AgreeConfig",
    ),
    _Suite(
        "2024",
        "5 shardkv",
        "tests/labs/shardkv",
        "TestStaticShards5A TestRejection5A TestJoinLeave5B TestSnapshot5B TestMissChange5B "
        "TestConcurrent1_5B TestConcurrent2_5B TestConcurrent3_5B TestUnreliable1_5B "
        "TestUnreliable2_5B TestUnreliable3_5B TestChallenge1Delete TestChallenge2Unaffected "
        "TestChallenge2Partial",
    ),
    _Suite("2025", "5 shardcfg", "tests/labs/shardgrp", "TestBasic"),
    _Suite(
        "2025",
        "5 shardkv1",
        "tests/labs/shardgrp",
        "TestInitQuery5A TestStaticOneShardGroup5A TestJoinBasic5A TestDeleteBasic5A "
        "TestJoinLeaveBasic5A TestManyJoinLeaveReliable5A TestManyJoinLeaveUnreliable5A "
        "TestShutdown5A TestProgressShutdown5A TestProgressJoin5A "
        "TestOneConcurrentClerkReliable5A TestManyConcurrentClerkReliable5A "
        "TestOneConcurrentClerkUnreliable5A TestManyConcurrentClerkUnreliable5A TestJoinLeave5B "
        "TestRecoverCtrler5B TestConcurrentReliable5C TestAcquireLockConcurrentUnreliable5C "
        "TestPartitionControllerJoin5C TestPartitionRecoveryReliableNoClerk5C "
        "TestPartitionRecoveryUnreliableNoClerk5C TestPartitionRecoveryReliableClerks5C "
        "TestPartitionRecoveryUnreliableClerks5C",
    ),
)

OFFICIAL: Final = tuple(
    Official(suite.edition, suite.lab, name.replace("-", " "), suite.where)
    for suite in _SUITES
    for name in suite.names.split()
)

GO_SECONDS: Final = {
    "2 kvsrv": 34,
    "3 raft": 360,
    "4 rsm": 90,
    "4 kvraft1": 292,
    "5 shardkv": 100,
    "5 shardkv1": 528,
}
"""About how many seconds by the wall the course says, or was seen, that its own suites take with a
right solution in Go, one test after another; no figure was found for the other labs."""
