package kafka

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// Ecosystem is software that builds on Kafka's clients: Connect with MirrorMaker 2 and a file
// connector, and Streams.
type Ecosystem struct{ dist *distribution }

// InstallEcosystem installs it through Maven and compiles a Java program against it. The program's
// class is in no package.
func InstallEcosystem(ctx context.Context, program string) (*Ecosystem, error) {
	return installProgram(ctx, "ecosystem", ecosystemPOM, program)
}

// installProgram installs the jars of a pom and compiles a Java program against them.
func installProgram(ctx context.Context, name, pom, program string) (*Ecosystem, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	lib, err := cache.Get(name+"-"+Version, pom+string(text), func(dir string) error {
		if err := copyJars(ctx, dir, pom); err != nil {
			return err
		}
		_, err := proc.Run(ctx, exec.Command("javac", "-d", dir, "-cp", filepath.Join(dir, "*"), program))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Ecosystem{dist: &distribution{lib: lib, classes: true}}, nil
}

// Command runs a class.
func (e *Ecosystem) Command(class string, args ...string) *exec.Cmd {
	return e.dist.java([]string{"-Xmx256m"}, class, args...)
}

const ecosystemPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>culvert.test</groupId><artifactId>ecosystem</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-mirror</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-file</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-streams</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency>
  </dependencies>
</project>
`
