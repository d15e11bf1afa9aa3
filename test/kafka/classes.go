package kafka

// The classes of Kafka's command-line tools, for Cluster.Tool.
const (
	Topics             = "org.apache.kafka.tools.TopicCommand"
	ConsoleProducer    = "org.apache.kafka.tools.ConsoleProducer"
	ConsoleConsumer    = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	ConsoleShare       = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"
	ConsumerGroups     = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
	ShareGroups        = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"
	Groups             = "org.apache.kafka.tools.GroupsCommand"
	ProducerPerf       = "org.apache.kafka.tools.ProducerPerformance"
	ConsumerPerf       = "org.apache.kafka.tools.ConsumerPerformance"
	SharePerf          = "org.apache.kafka.tools.ShareConsumerPerformance"
	VerifiableProducer = "org.apache.kafka.tools.VerifiableProducer"
	VerifiableConsumer = "org.apache.kafka.tools.VerifiableConsumer"
	Configs            = "kafka.admin.ConfigCommand"
	LeaderElection     = "org.apache.kafka.tools.LeaderElectionCommand"
	ClusterTool        = "org.apache.kafka.tools.ClusterTool"
	MetadataQuorum     = "org.apache.kafka.tools.MetadataQuorumCommand"
	BrokerAPIVersions  = "org.apache.kafka.tools.BrokerApiVersionsCommand"
	GetOffsets         = "org.apache.kafka.tools.GetOffsetShell"
	LogDirs            = "org.apache.kafka.tools.LogDirsCommand"
	Transactions       = "org.apache.kafka.tools.TransactionsCommand"
	DeleteRecords      = "org.apache.kafka.tools.DeleteRecordsCommand"
)
