import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;

/**
 * Makes the round trip with the Java client, 2.0 or newer: BOOTSTRAP TOPIC GROUP COUNT [key=value ...].
 * Produces COUNT numbered records with acks=all, consumes them in the group, and exits 0 if each came exactly
 * once and in order per partition. What is given as key=value becomes a property of both.
 */
public class RoundTrip {
    static final long PATIENCE_MS = 60_000;

    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int count = Integer.parseInt(args[3]);
        Properties common = new Properties();
        common.put("bootstrap.servers", args[0]);
        for (int i = 4; i < args.length; i++) {
            String[] option = args[i].split("=", 2);
            common.put(option[0], option[1]);
        }
        produce(common, topic, count);
        common.put("group.id", args[2]);
        consume(common, topic, count);
        System.out.println("ok: " + count + " records");
    }

    static void produce(Properties common, String topic, int count) throws Exception {
        Properties p = new Properties();
        p.putAll(common);
        p.put("acks", "all");
        p.put("enable.idempotence", "true");
        p.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        p.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = 0; n < count; n++)
                sent.add(producer.send(new ProducerRecord<>(topic, "key-" + n, "" + n)));
            for (Future<RecordMetadata> f : sent)
                f.get();
        }
    }

    static void consume(Properties common, String topic, int count) {
        Properties p = new Properties();
        p.putAll(common);
        p.put("auto.offset.reset", "earliest");
        p.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        p.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        Set<Integer> seen = new HashSet<>();
        Map<Integer, Integer> last = new HashMap<>();
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(p)) {
            consumer.subscribe(List.of(topic));
            while (seen.size() < count) {
                if (System.currentTimeMillis() > deadline)
                    throw new IllegalStateException("only " + seen.size() + " of " + count + " records came");
                for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofSeconds(1)))
                    add(seen, last, r.partition(), Integer.parseInt(r.value()));
            }
            consumer.commitSync();
        }
    }

    static void add(Set<Integer> seen, Map<Integer, Integer> last, int partition, int n) {
        if (!seen.add(n))
            throw new IllegalStateException("record " + n + " came twice");
        Integer before = last.put(partition, n);
        if (before != null && n < before)
            throw new IllegalStateException("record " + n + " came behind " + before + " in partition " + partition);
    }
}
