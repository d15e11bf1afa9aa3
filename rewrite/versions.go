package rewrite

import (
	"encoding/binary"

	"github.com/culvert-proxy/culvert/protocol"
)

// Caps holds for each API key the newest version that may be used, or -1 if none may.
type Caps [protocol.MaxKey + 1]int16

// reviewed holds for each API key the newest version that is known not to carry addresses, or to be
// rewritten by this package. Kafka added addresses to responses that had none (Produce v10, Fetch
// v16, DescribeQuorum v2). So a newer version is not allowed until somebody has read its schema,
// and written its walk if it needs one. All that kmsg v1.15.1 knows, which is Kafka 4.4, is
// reviewed.
var reviewed = review()

func review() Caps {
	var caps Caps
	for k := range caps {
		caps[k] = -1
	}
	for k, newest := range withoutAddresses {
		caps[k] = newest
	}
	for k, row := range apis {
		if row.how != nil {
			caps[k] = row.newest
		}
	}
	return caps
}

// withoutAddresses holds the newest version that has been reviewed of each API that names no broker
// at any version, and so has no row in [apis].
var withoutAddresses = map[protocol.APIKey]int16{
	2:  11, // ListOffsets
	4:  7,  // LeaderAndIsr
	5:  4,  // StopReplica
	6:  8,  // UpdateMetadata
	7:  3,  // ControlledShutdown
	8:  10, // OffsetCommit
	9:  10, // OffsetFetch
	11: 9,  // JoinGroup
	12: 4,  // Heartbeat
	13: 5,  // LeaveGroup
	14: 5,  // SyncGroup
	15: 6,  // DescribeGroups
	16: 5,  // ListGroups
	17: 1,  // SaslHandshake
	18: 5,  // ApiVersions
	19: 7,  // CreateTopics
	20: 6,  // DeleteTopics
	21: 2,  // DeleteRecords
	22: 5,  // InitProducerId
	23: 4,  // OffsetForLeaderEpoch
	24: 5,  // AddPartitionsToTxn
	25: 4,  // AddOffsetsToTxn
	26: 5,  // EndTxn
	27: 2,  // WriteTxnMarkers
	28: 6,  // TxnOffsetCommit
	29: 3,  // DescribeAcls
	30: 3,  // CreateAcls
	31: 3,  // DeleteAcls
	32: 4,  // DescribeConfigs
	33: 2,  // AlterConfigs
	34: 2,  // AlterReplicaLogDirs
	35: 5,  // DescribeLogDirs
	36: 2,  // SaslAuthenticate
	37: 3,  // CreatePartitions
	38: 3,  // CreateDelegationToken
	39: 2,  // RenewDelegationToken
	40: 2,  // ExpireDelegationToken
	41: 3,  // DescribeDelegationToken
	42: 3,  // DeleteGroups
	43: 2,  // ElectLeaders
	44: 1,  // IncrementalAlterConfigs
	45: 1,  // AlterPartitionReassignments
	46: 0,  // ListPartitionReassignments
	47: 0,  // OffsetDelete
	48: 1,  // DescribeClientQuotas
	49: 1,  // AlterClientQuotas
	50: 0,  // DescribeUserScramCredentials
	51: 0,  // AlterUserScramCredentials
	56: 3,  // AlterPartition
	57: 2,  // UpdateFeatures
	61: 0,  // DescribeProducers
	62: 4,  // BrokerRegistration
	63: 2,  // BrokerHeartbeat
	64: 0,  // UnregisterBroker
	65: 0,  // DescribeTransactions
	66: 2,  // ListTransactions
	67: 0,  // AllocateProducerIds
	68: 1,  // ConsumerGroupHeartbeat
	69: 1,  // ConsumerGroupDescribe
	70: 0,  // ControllerRegistration
	71: 0,  // GetTelemetrySubscriptions
	72: 0,  // PushTelemetry
	73: 0,  // AssignReplicasToDirs
	74: 1,  // ListConfigResources
	75: 0,  // DescribeTopicPartitions
	76: 1,  // ShareGroupHeartbeat
	77: 1,  // ShareGroupDescribe
	80: 1,  // AddRaftVoter
	81: 0,  // RemoveRaftVoter
	83: 0,  // InitializeShareGroupState
	84: 0,  // ReadShareGroupState
	85: 1,  // WriteShareGroupState
	86: 0,  // DeleteShareGroupState
	87: 1,  // ReadShareGroupStateSummary
	88: 1,  // StreamsGroupHeartbeat
	89: 1,  // StreamsGroupDescribe
	90: 1,  // DescribeShareGroupOffsets
	91: 0,  // AlterShareGroupOffsets
	92: 0,  // DeleteShareGroupOffsets
	93: 0,  // StreamsGroupTopologyDescriptionUpdate
	94: 0,  // UnregisterController
}

// Reviewed returns the newest versions that are known not to carry addresses, or to be rewritten by
// this package.
func Reviewed() Caps { return reviewed }

// Lower returns the minimum of both for each key, and -1 for keys that other does not have.
func (c Caps) Lower(other []int16) Caps {
	for k := range c {
		if k < len(other) {
			c[k] = max(-1, min(c[k], other[k]))
		} else {
			c[k] = -1
		}
	}
	return c
}

// Allow reports whether the version may be used. No version of a key above [protocol.MaxKey] may.
func (c *Caps) Allow(key protocol.APIKey, version int16) bool {
	return key.Known() && version >= 0 && version <= c[key]
}

const (
	// unsupportedVersion is Kafka's UNSUPPORTED_VERSION.
	unsupportedVersion = 35
	// apiVersionSize is an entry of ApiVersions without tagged fields: key, minimum, maximum.
	apiVersionSize = 2 + 2 + 2
)

// UnsupportedAPIVersions returns the response to an ApiVersions request that is newer than max. By
// KIP-511 it is of version 0 and offers only ApiVersions, up to max. The client asks again on the
// same connection.
func UnsupportedAPIVersions(correlationID int32, max int16) []byte {
	b := binary.BigEndian.AppendUint32(nil, 4+2+4+apiVersionSize)
	b = binary.BigEndian.AppendUint32(b, uint32(correlationID))
	b = binary.BigEndian.AppendUint16(b, unsupportedVersion)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(protocol.APIVersions))
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint16(b, uint16(max))
}

// relayAPIVersions passes an ApiVersions response v0-5 and takes out the APIs and versions that
// caps does not allow. Minimums and features stay: Kafka offers Produce from version 0 for
// librdkafka (KAFKA-18659), and transactions depend on the features (KIP-890).
//
//	error int16, [keys] key int16, min int16, max int16, TAGS
//	throttle int32 (v1+), TAGS
//
// With error UNSUPPORTED_VERSION the body is of version 0, whatever the request's version was.
func (c *cursor) relayAPIVersions(caps *Caps, relayUnknown bool) (Result, error) {
	version := c.version
	if c.int16() == unsupportedVersion {
		version, c.flexible = 0, false
	}
	edits := c.capKeys(caps, relayUnknown)
	if version >= 1 {
		c.outcome.SetThrottle(c.int32())
	}
	c.tags()
	if c.end(); c.err != nil {
		return Result{}, c.err
	}
	return Result{Outcome: c.outcome}, c.finish(edits)
}

// capKeys walks over the keys and returns the edits that lower or remove some.
func (c *cursor) capKeys(caps *Caps, relayUnknown bool) []edit {
	countAt := c.at
	n := c.array()
	edits := []edit{{span: span{countAt, c.at}}} // the place of the new count
	kept := n
	for range n {
		if c.err != nil {
			return nil
		}
		from := c.at
		key, lowest, newest := protocol.APIKey(c.int16()), c.int16(), c.int16()
		maxAt := c.at - 2
		c.tags()
		switch {
		case key.Known() && newest <= caps[key], !key.Known() && relayUnknown:
		case !key.Known(), caps[key] < lowest:
			edits = append(edits, edit{span: span{from, c.at}})
			kept--
		default:
			edits = append(edits, edit{span{maxAt, maxAt + 2}, binary.BigEndian.AppendUint16(nil, uint16(caps[key]))})
		}
	}
	if kept == n {
		return edits[1:]
	}
	edits[0].with = appendCount(kept, c.flexible)
	return edits
}

// appendCount returns the length of an array that is not null.
func appendCount(n int, flexible bool) []byte {
	if flexible {
		return binary.AppendUvarint(nil, uint64(n)+1)
	}
	return binary.BigEndian.AppendUint32(nil, uint32(n))
}
