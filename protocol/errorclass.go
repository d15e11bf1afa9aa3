package protocol

// ErrorClass says what kind of error a response has, and so whom to ask about it. Kafka has more
// than a hundred error codes; docs/metrics.md lists the classes.
type ErrorClass uint8

// The classes.
const (
	ClassMetadata       ErrorClass = iota // what the client knows of leaders, or its session, is out of date: it asks again
	ClassCoordinator                      // the coordinator of a group or transaction has moved, or is loading
	ClassGroup                            // members of groups come and go, or do not fit together
	ClassTopic                            // a topic or partition that is not there
	ClassOffset                           // an offset that is not in the log, or cannot be committed
	ClassRecord                           // records that are too large, invalid or damaged
	ClassTransaction                      // producers' ids, epochs, sequences and transactions
	ClassAuthentication                   // logins and delegation tokens
	ClassAuthorization                    // ACLs
	ClassQuota                            // more than a quota or a limit of the broker allows
	ClassBroker                           // the broker cannot do it now or in time, or has failed
	ClassVersion                          // a version that the broker does not support
	ClassRequest                          // a request that is invalid, or that the cluster's state or policy forbids
	ClassOther                            // what only brokers and controllers send each other, and unknown codes
	NumErrorClasses
)

var classNames = [NumErrorClasses]string{
	ClassMetadata:       "metadata",
	ClassCoordinator:    "coordinator",
	ClassGroup:          "group",
	ClassTopic:          "topic",
	ClassOffset:         "offset",
	ClassRecord:         "record",
	ClassTransaction:    "transaction",
	ClassAuthentication: "authentication",
	ClassAuthorization:  "authorization",
	ClassQuota:          "quota",
	ClassBroker:         "broker",
	ClassVersion:        "version",
	ClassRequest:        "request",
	ClassOther:          "other",
}

// String returns the name of the class, as metrics have it.
func (c ErrorClass) String() string { return classNames[c] }

// ErrorClasses is a set of classes. The zero value is empty: the response has no error.
type ErrorClasses uint16

// Add adds the class of an error code. 0, Kafka's NONE, adds nothing, and neither does
// MEMBER_ID_REQUIRED: a coordinator gives each new member its id that way (KIP-394).
func (s *ErrorClasses) Add(code int16) {
	if code != 0 && code != memberIDRequired {
		*s |= 1 << classOf(code)
	}
}

// Has reports whether the set has c.
func (s ErrorClasses) Has(c ErrorClass) bool { return s>>c&1 == 1 }

// classOf returns the class of an error code other than 0.
func classOf(code int16) ErrorClass {
	switch {
	case code == unknownServerError:
		return ClassBroker
	case code < 0 || int(code) >= len(errorClasses):
		return ClassOther
	}
	return errorClasses[code]
}

const (
	unknownServerError = -1 // Kafka's only negative code
	memberIDRequired   = 79
)

// errorClasses has the class of each error code of Kafka's Errors.java.
var errorClasses = [...]ErrorClass{
	1:   ClassOffset,         // OFFSET_OUT_OF_RANGE
	2:   ClassRecord,         // CORRUPT_MESSAGE
	3:   ClassTopic,          // UNKNOWN_TOPIC_OR_PARTITION
	4:   ClassRequest,        // INVALID_FETCH_SIZE
	5:   ClassMetadata,       // LEADER_NOT_AVAILABLE
	6:   ClassMetadata,       // NOT_LEADER_FOR_PARTITION
	7:   ClassBroker,         // REQUEST_TIMED_OUT
	8:   ClassBroker,         // BROKER_NOT_AVAILABLE
	9:   ClassMetadata,       // REPLICA_NOT_AVAILABLE
	10:  ClassRecord,         // MESSAGE_TOO_LARGE
	11:  ClassMetadata,       // STALE_CONTROLLER_EPOCH
	12:  ClassOffset,         // OFFSET_METADATA_TOO_LARGE
	13:  ClassBroker,         // NETWORK_EXCEPTION
	14:  ClassCoordinator,    // COORDINATOR_LOAD_IN_PROGRESS
	15:  ClassCoordinator,    // COORDINATOR_NOT_AVAILABLE
	16:  ClassCoordinator,    // NOT_COORDINATOR
	17:  ClassTopic,          // INVALID_TOPIC_EXCEPTION
	18:  ClassRecord,         // RECORD_LIST_TOO_LARGE
	19:  ClassBroker,         // NOT_ENOUGH_REPLICAS
	20:  ClassBroker,         // NOT_ENOUGH_REPLICAS_AFTER_APPEND
	21:  ClassRequest,        // INVALID_REQUIRED_ACKS
	22:  ClassGroup,          // ILLEGAL_GENERATION
	23:  ClassGroup,          // INCONSISTENT_GROUP_PROTOCOL
	24:  ClassGroup,          // INVALID_GROUP_ID
	25:  ClassGroup,          // UNKNOWN_MEMBER_ID
	26:  ClassGroup,          // INVALID_SESSION_TIMEOUT
	27:  ClassGroup,          // REBALANCE_IN_PROGRESS
	28:  ClassOffset,         // INVALID_COMMIT_OFFSET_SIZE
	29:  ClassAuthorization,  // TOPIC_AUTHORIZATION_FAILED
	30:  ClassAuthorization,  // GROUP_AUTHORIZATION_FAILED
	31:  ClassAuthorization,  // CLUSTER_AUTHORIZATION_FAILED
	32:  ClassRecord,         // INVALID_TIMESTAMP
	33:  ClassAuthentication, // UNSUPPORTED_SASL_MECHANISM
	34:  ClassAuthentication, // ILLEGAL_SASL_STATE
	35:  ClassVersion,        // UNSUPPORTED_VERSION
	36:  ClassRequest,        // TOPIC_ALREADY_EXISTS
	37:  ClassRequest,        // INVALID_PARTITIONS
	38:  ClassRequest,        // INVALID_REPLICATION_FACTOR
	39:  ClassRequest,        // INVALID_REPLICA_ASSIGNMENT
	40:  ClassRequest,        // INVALID_CONFIG
	41:  ClassMetadata,       // NOT_CONTROLLER
	42:  ClassRequest,        // INVALID_REQUEST
	43:  ClassRecord,         // UNSUPPORTED_FOR_MESSAGE_FORMAT
	44:  ClassRequest,        // POLICY_VIOLATION
	45:  ClassTransaction,    // OUT_OF_ORDER_SEQUENCE_NUMBER
	46:  ClassTransaction,    // DUPLICATE_SEQUENCE_NUMBER
	47:  ClassTransaction,    // INVALID_PRODUCER_EPOCH
	48:  ClassTransaction,    // INVALID_TXN_STATE
	49:  ClassTransaction,    // INVALID_PRODUCER_ID_MAPPING
	50:  ClassTransaction,    // INVALID_TRANSACTION_TIMEOUT
	51:  ClassTransaction,    // CONCURRENT_TRANSACTIONS
	52:  ClassTransaction,    // TRANSACTION_COORDINATOR_FENCED
	53:  ClassAuthorization,  // TRANSACTIONAL_ID_AUTHORIZATION_FAILED
	54:  ClassAuthorization,  // SECURITY_DISABLED
	55:  ClassRequest,        // OPERATION_NOT_ATTEMPTED
	56:  ClassBroker,         // KAFKA_STORAGE_ERROR
	57:  ClassRequest,        // LOG_DIR_NOT_FOUND
	58:  ClassAuthentication, // SASL_AUTHENTICATION_FAILED
	59:  ClassTransaction,    // UNKNOWN_PRODUCER_ID
	60:  ClassRequest,        // REASSIGNMENT_IN_PROGRESS
	61:  ClassAuthentication, // DELEGATION_TOKEN_AUTH_DISABLED
	62:  ClassAuthentication, // DELEGATION_TOKEN_NOT_FOUND
	63:  ClassAuthentication, // DELEGATION_TOKEN_OWNER_MISMATCH
	64:  ClassAuthentication, // DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
	65:  ClassAuthorization,  // DELEGATION_TOKEN_AUTHORIZATION_FAILED
	66:  ClassAuthentication, // DELEGATION_TOKEN_EXPIRED
	67:  ClassAuthentication, // INVALID_PRINCIPAL_TYPE
	68:  ClassGroup,          // NON_EMPTY_GROUP
	69:  ClassGroup,          // GROUP_ID_NOT_FOUND
	70:  ClassMetadata,       // FETCH_SESSION_ID_NOT_FOUND
	71:  ClassMetadata,       // INVALID_FETCH_SESSION_EPOCH
	72:  ClassMetadata,       // LISTENER_NOT_FOUND
	73:  ClassRequest,        // TOPIC_DELETION_DISABLED
	74:  ClassMetadata,       // FENCED_LEADER_EPOCH
	75:  ClassMetadata,       // UNKNOWN_LEADER_EPOCH
	76:  ClassRecord,         // UNSUPPORTED_COMPRESSION_TYPE
	77:  ClassOther,          // STALE_BROKER_EPOCH
	78:  ClassMetadata,       // OFFSET_NOT_AVAILABLE
	79:  ClassGroup,          // MEMBER_ID_REQUIRED
	80:  ClassMetadata,       // PREFERRED_LEADER_NOT_AVAILABLE
	81:  ClassGroup,          // GROUP_MAX_SIZE_REACHED
	82:  ClassGroup,          // FENCED_INSTANCE_ID
	83:  ClassMetadata,       // ELIGIBLE_LEADERS_NOT_AVAILABLE
	84:  ClassRequest,        // ELECTION_NOT_NEEDED
	85:  ClassRequest,        // NO_REASSIGNMENT_IN_PROGRESS
	86:  ClassGroup,          // GROUP_SUBSCRIBED_TO_TOPIC
	87:  ClassRecord,         // INVALID_RECORD
	88:  ClassTransaction,    // UNSTABLE_OFFSET_COMMIT
	89:  ClassQuota,          // THROTTLING_QUOTA_EXCEEDED
	90:  ClassTransaction,    // PRODUCER_FENCED
	91:  ClassRequest,        // RESOURCE_NOT_FOUND
	92:  ClassRequest,        // DUPLICATE_RESOURCE
	93:  ClassRequest,        // UNACCEPTABLE_CREDENTIAL
	94:  ClassOther,          // INCONSISTENT_VOTER_SET
	95:  ClassRequest,        // INVALID_UPDATE_VERSION
	96:  ClassBroker,         // FEATURE_UPDATE_FAILED
	97:  ClassAuthentication, // PRINCIPAL_DESERIALIZATION_FAILURE
	98:  ClassOther,          // SNAPSHOT_NOT_FOUND
	99:  ClassOther,          // POSITION_OUT_OF_RANGE
	100: ClassTopic,          // UNKNOWN_TOPIC_ID
	101: ClassOther,          // DUPLICATE_BROKER_REGISTRATION
	102: ClassOther,          // BROKER_ID_NOT_REGISTERED
	103: ClassMetadata,       // INCONSISTENT_TOPIC_ID
	104: ClassOther,          // INCONSISTENT_CLUSTER_ID
	105: ClassTransaction,    // TRANSACTIONAL_ID_NOT_FOUND
	106: ClassMetadata,       // FETCH_SESSION_TOPIC_ID_ERROR
	107: ClassOther,          // INELIGIBLE_REPLICA
	108: ClassMetadata,       // NEW_LEADER_ELECTED
	109: ClassOffset,         // OFFSET_MOVED_TO_TIERED_STORAGE
	110: ClassGroup,          // FENCED_MEMBER_EPOCH
	111: ClassGroup,          // UNRELEASED_INSTANCE_ID
	112: ClassGroup,          // UNSUPPORTED_ASSIGNOR
	113: ClassGroup,          // STALE_MEMBER_EPOCH
	114: ClassRequest,        // MISMATCHED_ENDPOINT_TYPE
	115: ClassRequest,        // UNSUPPORTED_ENDPOINT_TYPE
	116: ClassOther,          // UNKNOWN_CONTROLLER_ID
	117: ClassRequest,        // UNKNOWN_SUBSCRIPTION_ID
	118: ClassRequest,        // TELEMETRY_TOO_LARGE
	119: ClassOther,          // INVALID_REGISTRATION
	120: ClassTransaction,    // TRANSACTION_ABORTABLE
	121: ClassGroup,          // INVALID_RECORD_STATE
	122: ClassMetadata,       // SHARE_SESSION_NOT_FOUND
	123: ClassMetadata,       // INVALID_SHARE_SESSION_EPOCH
	124: ClassCoordinator,    // FENCED_STATE_EPOCH
	125: ClassOther,          // INVALID_VOTER_KEY
	126: ClassOther,          // DUPLICATE_VOTER
	127: ClassOther,          // VOTER_NOT_FOUND
	128: ClassRequest,        // INVALID_REGULAR_EXPRESSION
	129: ClassMetadata,       // REBOOTSTRAP_REQUIRED
	130: ClassGroup,          // STREAMS_INVALID_TOPOLOGY
	131: ClassGroup,          // STREAMS_INVALID_TOPOLOGY_EPOCH
	132: ClassGroup,          // STREAMS_TOPOLOGY_FENCED
	133: ClassQuota,          // SHARE_SESSION_LIMIT_REACHED
	134: ClassGroup,          // GROUP_DELETION_FAILED
	135: ClassGroup,          // STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED
	136: ClassOther,          // CONTROLLER_ID_NOT_REGISTERED
}
