// real_channels FILE OTHER: changes FILE through RandomAccessFile, FileChannel and streams; OTHER is only read.
import java.io.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.Arrays;

class real_channels {
    static ByteBuffer filled(int length, char with, boolean isDirect) {
        ByteBuffer buffer = isDirect ? ByteBuffer.allocateDirect(length) : ByteBuffer.allocate(length);
        while (buffer.hasRemaining())
            buffer.put((byte) with);
        return buffer.flip();
    }

    static void expect(long found, long wanted) {
        if (found != wanted)
            throw new IllegalStateException(found + " instead of " + wanted);
    }

    public static void main(String[] arguments) throws IOException {
        Path victim = Path.of(arguments[0]), other = Path.of(arguments[1]);
        try (RandomAccessFile file = new RandomAccessFile(victim.toFile(), "rw")) {
            file.seek(3333);
            byte[] bytes = new byte[9000];
            Arrays.fill(bytes, (byte) 'r');
            file.write(bytes);
            file.writeUTF("from Java");
            file.setLength(file.length() - 7000);
        }
        try (FileChannel channel = FileChannel.open(victim, StandardOpenOption.READ, StandardOpenOption.WRITE);
                FileChannel source = FileChannel.open(other, StandardOpenOption.READ)) {
            expect(channel.write(filled(10000, 'w', true), 20001), 10000);
            channel.position(40000);
            expect(channel.write(new ByteBuffer[] {filled(100, 'x', true), filled(5000, 'y', false)}), 5100);
            expect(channel.transferFrom(source, 50000, 30000), 30000);
            expect(source.transferTo(1000, 20000, channel.position(90000)), 20000);
            channel.truncate(130001);
            channel.force(true);
        }
        try (ReadableByteChannel pipe = Channels.newChannel(new ByteArrayInputStream(new byte[12000]));
                FileChannel channel = FileChannel.open(victim, StandardOpenOption.WRITE)) {
            expect(channel.transferFrom(pipe, 100000, 12000), 12000);
        }
        Files.write(victim, "appended".repeat(2000).getBytes(), StandardOpenOption.APPEND);
        try (OutputStream again = new FileOutputStream(victim.toFile())) {
            again.write("anew".repeat(9000).getBytes());
        }
    }
}
