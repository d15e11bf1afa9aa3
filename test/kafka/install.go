package kafka

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// The versions of Apache Kafka that the tests run. Version is the newest whose command-line tools
// are published. Of Next, which is newer, only the broker is.
const (
	Version = "4.3.1"
	Next    = "4.4.0"
)

// distribution is an installed Apache Kafka.
type distribution struct {
	lib     string // the folder with the jars
	classes bool   // it also has classes outside of jars
	archive string // shared classes, which halve the start time of a JVM
}

// classPath has a folder only where needed: with one, a JVM shares no classes.
func (d *distribution) classPath() string {
	path := filepath.Join(d.lib, "*")
	if d.classes {
		path += string(filepath.ListSeparator) + d.lib
	}
	return path
}

// install installs a version of Apache Kafka through Maven.
func install(ctx context.Context, version string) (*distribution, error) {
	pom := brokerPOM
	if version == Version {
		pom = toolsPOM
	}
	pom = strings.ReplaceAll(pom, "VERSION", version)
	lib, err := cache.Get("kafka-"+version, pom, func(dir string) error { return copyJars(ctx, dir, pom) })
	if err != nil {
		return nil, err
	}
	d := &distribution{lib: lib}
	classes, err := cache.Get("kafka-"+version+"-classes", pom+lib, func(dir string) error { return d.archiveClasses(ctx, dir) })
	if err != nil {
		return nil, err
	}
	d.archive = filepath.Join(classes, archiveFile)
	return d, nil
}

// Available returns nil, or what is missing to install and start Apache Kafka.
func Available() error {
	for _, program := range []string{"java", "javac", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: Apache Kafka needs a JDK and Maven (Debian: apt-get install openjdk-17-jdk-headless maven)", err)
		}
	}
	return nil
}

const archiveFile = "kafka.jsa"

// copyJars copies the jars of a pom to dir.
func copyJars(ctx context.Context, dir, pom string) error {
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, []byte(pom), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, logFile), []byte(logConfig), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.Command("mvn", "-B", "-q", "-f", file, "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies", "-DoutputDirectory="+dir)
	_, err := proc.Run(ctx, cmd)
	return err
}

// archiveClasses starts a broker once. Its JVM writes the classes that it loaded to a file that
// later JVMs map.
func (d *distribution) archiveClasses(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	work, err := os.MkdirTemp("", "culvert-kafka-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	c, err := newCluster(d, work, Config{IDs: []int32{0}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.format(ctx); err != nil {
		return err
	}
	n := c.nodes[0]
	n.jvm = append(n.jvm, "-XX:ArchiveClassesAtExit="+filepath.Join(dir, archiveFile))
	if err := n.start(); err != nil {
		return err
	}
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	_ = n.process.Terminate(time.Minute) // a JVM's exit status after SIGTERM is 143
	if !cache.Have(filepath.Join(dir, archiveFile)) {
		return fmt.Errorf("archive classes: the JVM wrote no archive\n%s", n.process.Output())
	}
	return nil
}

// java returns the command that runs a class with this distribution's jars.
func (d *distribution) java(jvm []string, class string, args ...string) *exec.Cmd {
	all := append([]string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}, jvm...)
	if d.archive != "" {
		all = append(all, "-XX:SharedArchiveFile="+d.archive)
	}
	all = append(all, "-Dlog4j2.configurationFile="+filepath.Join(d.lib, logFile), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", d.classPath(), class)
	return exec.Command("java", append(all, args...)...)
}

const logFile = "log4j2.properties"

const logConfig = `status = off
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
`

// toolsPOM has the brokers and the command-line tools, without Kafka Connect: no tool needs its 40
// jars.
const toolsPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>culvert.test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>VERSION</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-api</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-transforms</artifactId></exclusion>
      </exclusions></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency>
  </dependencies>
</project>
`

// brokerPOM has only the brokers.
const brokerPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>culvert.test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`
