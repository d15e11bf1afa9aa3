package hints

// A Setting is something that the user of a program sets, in words.
type Setting string

// The settings that hints name.
const (
	// Of an agent.
	GatewayURL        Setting = "gateway URL"
	GatewayCAFile     Setting = "gateway CA file"
	GatewayCertFile   Setting = "gateway cert file"
	GatewayKeyFile    Setting = "gateway key file"
	Transport         Setting = "transport"
	RelayUnknownAPIs  Setting = "relay unknown APIs"
	NodeAddress       Setting = "node address"
	BrokerPortBase    Setting = "broker port base"
	BrokerNames       Setting = "broker names"
	ExpectNodes       Setting = "expect nodes"
	ListenTLSCertFile Setting = "listen TLS cert file"
	ListenClientCA    Setting = "listen client CA file"
	MaxConnections    Setting = "max connections"
	Listen            Setting = "listen"

	// Of the doctor.
	ClientConfig Setting = "client config"
	Produce      Setting = "produce"

	// Of a gateway.
	AllowBroker           Setting = "allow broker"
	AllowUser             Setting = "allow user"
	Bootstrap             Setting = "bootstrap"
	InsecureNoAuth        Setting = "insecure no auth"
	TicketKeyFile         Setting = "ticket key file"
	ProxyProtocol         Setting = "proxy protocol"
	MaxMemory             Setting = "max memory"
	MaxStreams            Setting = "max streams"
	MaxStreamsPerIdentity Setting = "max streams per identity"
	MaxSparesPerIdentity  Setting = "max spares per identity"

	// Of both.
	Forward          Setting = "forward"
	TokenFile        Setting = "token file"
	AdminHost        Setting = "admin host"
	AdminPage        Setting = "admin page"
	BrokerTLS        Setting = "broker TLS"
	BrokerCAFile     Setting = "broker CA file"
	BrokerCertFile   Setting = "broker cert file"
	BrokerKeyFile    Setting = "broker key file"
	BrokerServerName Setting = "broker server name"
)
