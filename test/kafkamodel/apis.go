package kafkamodel

import "math"

// api is what a broker knows about an API key.
type api struct {
	min, max   int16 // the versions that it serves; min > max: removed
	flexible   int32 // the first version whose header has tagged fields
	controller bool  // only on controllers' listeners
	hidden     bool  // served but not offered in ApiVersions
}

const never = math.MaxInt32

var removed = api{min: 0, max: -1}

// apis has every key of message.ApiMessageType, from the schemas in common/message of kafka-clients
// 4.3.1, without unstable versions. A broker offers GetTelemetrySubscriptions and PushTelemetry
// only if it has a receiver for them.
var apis = map[int16]api{
	0:  {min: 3, max: 13, flexible: 9},                  // Produce
	1:  {min: 4, max: 18, flexible: 12},                 // Fetch
	2:  {min: 1, max: 11, flexible: 6},                  // ListOffsets
	3:  {min: 0, max: 13, flexible: 9},                  // Metadata
	4:  removed,                                         // LeaderAndIsr
	5:  removed,                                         // StopReplica
	6:  removed,                                         // UpdateMetadata
	7:  removed,                                         // ControlledShutdown
	8:  {min: 2, max: 10, flexible: 8},                  // OffsetCommit
	9:  {min: 1, max: 10, flexible: 6},                  // OffsetFetch
	10: {min: 0, max: 6, flexible: 3},                   // FindCoordinator
	11: {min: 0, max: 9, flexible: 6},                   // JoinGroup
	12: {min: 0, max: 4, flexible: 4},                   // Heartbeat
	13: {min: 0, max: 5, flexible: 4},                   // LeaveGroup
	14: {min: 0, max: 5, flexible: 4},                   // SyncGroup
	15: {min: 0, max: 6, flexible: 5},                   // DescribeGroups
	16: {min: 0, max: 5, flexible: 3},                   // ListGroups
	17: {min: 0, max: 1, flexible: never},               // SaslHandshake
	18: {min: 0, max: 4, flexible: 3},                   // ApiVersions
	19: {min: 2, max: 7, flexible: 5},                   // CreateTopics
	20: {min: 1, max: 6, flexible: 4},                   // DeleteTopics
	21: {min: 0, max: 2, flexible: 2},                   // DeleteRecords
	22: {min: 0, max: 5, flexible: 2},                   // InitProducerId
	23: {min: 2, max: 4, flexible: 4},                   // OffsetForLeaderEpoch
	24: {min: 0, max: 5, flexible: 3},                   // AddPartitionsToTxn
	25: {min: 0, max: 4, flexible: 3},                   // AddOffsetsToTxn
	26: {min: 0, max: 5, flexible: 3},                   // EndTxn
	27: {min: 1, max: 2, flexible: 1},                   // WriteTxnMarkers
	28: {min: 0, max: 5, flexible: 3},                   // TxnOffsetCommit
	29: {min: 1, max: 3, flexible: 2},                   // DescribeAcls
	30: {min: 1, max: 3, flexible: 2},                   // CreateAcls
	31: {min: 1, max: 3, flexible: 2},                   // DeleteAcls
	32: {min: 1, max: 4, flexible: 4},                   // DescribeConfigs
	33: {min: 0, max: 2, flexible: 2},                   // AlterConfigs
	34: {min: 1, max: 2, flexible: 2},                   // AlterReplicaLogDirs
	35: {min: 1, max: 5, flexible: 2},                   // DescribeLogDirs
	36: {min: 0, max: 2, flexible: 2},                   // SaslAuthenticate
	37: {min: 0, max: 3, flexible: 2},                   // CreatePartitions
	38: {min: 1, max: 3, flexible: 2},                   // CreateDelegationToken
	39: {min: 1, max: 2, flexible: 2},                   // RenewDelegationToken
	40: {min: 1, max: 2, flexible: 2},                   // ExpireDelegationToken
	41: {min: 1, max: 3, flexible: 2},                   // DescribeDelegationToken
	42: {min: 0, max: 2, flexible: 2},                   // DeleteGroups
	43: {min: 0, max: 2, flexible: 2},                   // ElectLeaders
	44: {min: 0, max: 1, flexible: 1},                   // IncrementalAlterConfigs
	45: {min: 0, max: 1, flexible: 0},                   // AlterPartitionReassignments
	46: {min: 0, max: 0, flexible: 0},                   // ListPartitionReassignments
	47: {min: 0, max: 0, flexible: never},               // OffsetDelete
	48: {min: 0, max: 1, flexible: 1},                   // DescribeClientQuotas
	49: {min: 0, max: 1, flexible: 1},                   // AlterClientQuotas
	50: {min: 0, max: 0, flexible: 0},                   // DescribeUserScramCredentials
	51: {min: 0, max: 0, flexible: 0},                   // AlterUserScramCredentials
	52: {min: 0, max: 2, flexible: 0, controller: true}, // Vote
	53: {min: 0, max: 1, flexible: 1, controller: true}, // BeginQuorumEpoch
	54: {min: 0, max: 1, flexible: 1, controller: true}, // EndQuorumEpoch
	55: {min: 0, max: 2, flexible: 0},                   // DescribeQuorum
	56: {min: 2, max: 3, flexible: 0, controller: true}, // AlterPartition
	57: {min: 0, max: 2, flexible: 0},                   // UpdateFeatures
	58: {min: 0, max: 0, flexible: 0, controller: true}, // Envelope
	59: {min: 0, max: 1, flexible: 0, controller: true}, // FetchSnapshot
	60: {min: 0, max: 2, flexible: 0},                   // DescribeCluster
	61: {min: 0, max: 0, flexible: 0},                   // DescribeProducers
	62: {min: 0, max: 4, flexible: 0, controller: true}, // BrokerRegistration
	63: {min: 0, max: 2, flexible: 0, controller: true}, // BrokerHeartbeat
	64: {min: 0, max: 0, flexible: 0},                   // UnregisterBroker
	65: {min: 0, max: 0, flexible: 0},                   // DescribeTransactions
	66: {min: 0, max: 2, flexible: 0},                   // ListTransactions
	67: {min: 0, max: 0, flexible: 0, controller: true}, // AllocateProducerIds
	68: {min: 0, max: 1, flexible: 0},                   // ConsumerGroupHeartbeat
	69: {min: 0, max: 1, flexible: 0},                   // ConsumerGroupDescribe
	70: {min: 0, max: 0, flexible: 0, controller: true}, // ControllerRegistration
	71: {min: 0, max: 0, flexible: 0, hidden: true},     // GetTelemetrySubscriptions
	72: {min: 0, max: 0, flexible: 0, hidden: true},     // PushTelemetry
	73: {min: 0, max: 0, flexible: 0, controller: true}, // AssignReplicasToDirs
	74: {min: 0, max: 1, flexible: 0},                   // ListConfigResources
	75: {min: 0, max: 0, flexible: 0},                   // DescribeTopicPartitions
	76: {min: 1, max: 1, flexible: 0},                   // ShareGroupHeartbeat
	77: {min: 1, max: 1, flexible: 0},                   // ShareGroupDescribe
	78: {min: 1, max: 2, flexible: 0},                   // ShareFetch
	79: {min: 1, max: 2, flexible: 0},                   // ShareAcknowledge
	80: {min: 0, max: 1, flexible: 0},                   // AddRaftVoter
	81: {min: 0, max: 0, flexible: 0},                   // RemoveRaftVoter
	82: {min: 0, max: 0, flexible: 0, controller: true}, // UpdateRaftVoter
	83: {min: 0, max: 0, flexible: 0},                   // InitializeShareGroupState
	84: {min: 0, max: 0, flexible: 0},                   // ReadShareGroupState
	85: {min: 0, max: 1, flexible: 0},                   // WriteShareGroupState
	86: {min: 0, max: 0, flexible: 0},                   // DeleteShareGroupState
	87: {min: 0, max: 1, flexible: 0},                   // ReadShareGroupStateSummary
	88: {min: 0, max: 0, flexible: 0},                   // StreamsGroupHeartbeat
	89: {min: 0, max: 0, flexible: 0},                   // StreamsGroupDescribe
	90: {min: 0, max: 1, flexible: 0},                   // DescribeShareGroupOffsets
	91: {min: 0, max: 0, flexible: 0},                   // AlterShareGroupOffsets
	92: {min: 0, max: 0, flexible: 0},                   // DeleteShareGroupOffsets
}
